"""One run: what the agent gets, what its answer means, and what is written down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from a2a.models import QueueItem, QueueStatus
from a2a.services.drain import drain
from activity.models import ActivityLog, StructureEvent
from schedules import hooks
from schedules.models import Schedule
from schedules.services import firing, tick
from tests.a2a.fake_agent import FakeAgent, answers, breaks_off, echo, hangs_up, said, waits
from tests.clients import admin
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.schedules.conftest import Doorbell, scheduled
from tests.schedules.factories import PAST
from tests.waiting import eventually
from workspaces.models import DeliveryMode, Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("doorbell")]


def run(made: Schedule, doorbell: Doorbell) -> Schedule:
    """Let a due schedule have its run."""
    Schedule.objects.filter(pk=made.pk).update(next_run_at=PAST)
    tick(timezone.now())
    doorbell.work()
    made.refresh_from_db()
    return made


def lines(**filters: Any) -> list[ActivityLog]:
    return list(ActivityLog.objects.filter(activity_type="cron_run", **filters).order_by("seq"))


def told(event: str) -> list[dict[str, Any]]:
    return [row.payload for row in StructureEvent.objects.filter(event_type=event).order_by("seq")]


def rpc(**result: Any) -> Any:
    return answers({"jsonrpc": "2.0", "id": "1", "result": result})


def test_an_agent_gets_the_prompt_from_the_server_itself(agent: FakeAgent, doorbell: Doorbell):
    made = scheduled(agent, prompt="plan the day", name="morning")
    run(made, doorbell)
    (seen,) = agent.requests
    assert seen.body["method"] == "message/send"
    message = seen.message
    assert message["parts"] == [{"kind": "text", "text": "plan the day"}]
    assert message["role"] == "user"
    assert message["messageId"].startswith(f"cron-{str(made.pk)[:8]}-")
    assert len(message["messageId"]) == len("cron-") + 8 + 1 + 8
    received = ActivityLog.objects.get(activity_type="a2a_receive")
    assert (received.source_id, received.target_id) == (None, made.workspace_id)
    assert (made.last_status, made.last_error, made.run_count) == ("ok", "", 1)
    assert made.last_run_at > timezone.now() - timedelta(minutes=1)
    assert made.next_run_at > timezone.now()


def test_a_run_leaves_one_line_and_one_event(agent: FakeAgent, doorbell: Doorbell, published: list[Any]):
    made = run(scheduled(agent, prompt="x" * 300, name="morning"), doorbell)
    (line,) = lines()
    assert (line.method, line.source_id, line.status, line.error_detail) == ("cron", None, "ok", None)
    assert line.duration_ms >= 1
    assert line.request_body == {
        "schedule_id": str(made.pk),
        "schedule_name": "morning",
        "cron_expr": "*/5 * * * *",
        "prompt": "x" * 200,
    }
    expected = {"schedule_id": str(made.pk), "schedule_name": "morning", "status": "ok"}
    assert told("CRON_EXECUTED") == [expected]
    assert [one.event for one in published if one.event.startswith("CRON")] == ["CRON_EXECUTED"]
    assert not any(one.payload.get("activity_type") == "cron_run" for one in published)
    history = admin().get(f"/workspaces/{made.workspace_id}/schedules/{made.pk}/history").json()
    assert [one["request"]["schedule_id"] for one in history] == [str(made.pk)]


OPEN = {"kind": "task", "id": "t", "status": {"state": "working"}}


@pytest.mark.parametrize(
    ("behaviour", "status", "counts"),
    [
        (echo, "ok", (0, 0)),
        (answers(said("hi")), "ok", (0, 0)),
        (rpc(kind="message", parts=[{"kind": "text", "text": "hi"}]), "ok", (0, 0)),
        (rpc(kind="ok", parts=[{"type": "text", "text": "hi"}]), "ok", (0, 0)),
        (rpc(**OPEN), "ok", (0, 0)),
        (rpc(parts=[]), "ok", (2, 1)),
        (answers(said("(no response generated)")), "ok", (2, 1)),
        (answers(said("  ")), "ok", (2, 1)),
        (answers({"jsonrpc": "2.0", "error": {"code": 1, "message": "quota"}}), "rpc_error", (1, 2)),
        (rpc(kind="sdk_error", parts=[{"kind": "text", "text": "no model"}]), "sdk_error", (1, 2)),
        (rpc(kind="message", result_kind="timeout"), "timeout", (1, 2)),
        (answers({**said("x"), "result_kind": "timeout"}), "timeout", (1, 2)),
        (rpc(kind="task", status={"state": "failed"}), "failed", (1, 2)),
        (rpc(kind="task", status={"state": "canceled"}), "canceled", (1, 2)),
        (rpc(kind="task", status={"state": "rejected"}), "rejected", (1, 2)),
        (answers({"error": "broken"}, 500), "error", (1, 1)),
        (answers({"error": "no"}, 404), "error", (1, 1)),
        (breaks_off, "error", (1, 1)),
        (answers({"jsonrpc": "2.0", "result": "plain"}), "ok", (0, 0)),
    ],
    ids=[str(number) for number in range(19)],
)
def test_what_an_answer_means(
    behaviour: Any, status: str, counts: tuple[int, int], agent: FakeAgent, doorbell: Doorbell
):
    agent.behaves(behaviour)
    made = run(scheduled(agent, consecutive_empty_runs=1, consecutive_sdk_errors=1), doorbell)
    assert made.last_status == status, made.last_error
    assert (made.consecutive_empty_runs, made.consecutive_sdk_errors) == counts
    assert bool(made.last_error) == (status != "ok")
    assert (made.enabled, made.run_count) == (True, 1)
    assert told("CRON_EXECUTED")[0]["status"] == status


def test_three_refusals_in_a_row_switch_it_off(agent: FakeAgent, doorbell: Doorbell):
    refusal = answers({"jsonrpc": "2.0", "error": {"message": "quota"}})
    agent.behaves(refusal, refusal, echo, refusal, refusal, refusal)
    made = scheduled(agent)
    for on in (True, True, True, True, True, False):
        assert run(made, doorbell).enabled == on
    assert (made.consecutive_sdk_errors, made.last_error, made.run_count) == (3, "quota", 6)
    run(made, doorbell)
    assert made.run_count == 6


def test_failures_of_the_way_do_not_switch_it_off(agent: FakeAgent, doorbell: Doorbell):
    agent.behaves(answers({"error": "broken"}, 500))
    made = scheduled(agent)
    for _ in range(4):
        run(made, doorbell)
    assert (made.enabled, made.last_status, made.last_error) == (True, "error", "broken")


def test_an_agent_that_says_nothing_is_stale_from_the_third_time_on(agent: FakeAgent, doorbell: Doorbell):
    nothing = answers(said("(no response generated)"))
    agent.behaves(nothing, nothing, nothing, nothing, echo)
    made = scheduled(agent)
    assert [run(made, doorbell).last_status for _ in range(5)] == ["ok", "ok", "stale", "stale", "ok"]
    assert (made.consecutive_empty_runs, made.enabled) == (0, True)


def test_a_secret_in_an_error_is_not_kept(agent: FakeAgent, doorbell: Doorbell):
    agent.behaves(answers({"error": "bearer abcdefghijklmnopqrstuvwxyz0123456789 was refused\x00"}, 401))
    made = run(scheduled(agent), doorbell)
    assert "[REDACTED]" in made.last_error
    assert "abcdefghijklmnop" not in made.last_error + str(lines()[0].error_detail)


def test_an_agent_that_polls_has_the_prompt_in_its_inbox(agent: FakeAgent, doorbell: Doorbell):
    made = run(scheduled(agent, workspace={"delivery_mode": DeliveryMode.POLL}), doorbell)
    assert (made.last_status, made.consecutive_empty_runs) == ("ok", 0)
    assert agent.requests == []
    assert ActivityLog.objects.get(activity_type="a2a_receive").request_body["params"]["message"]["parts"]


def test_a_spent_budget_is_an_error(agent: FakeAgent, doorbell: Doorbell):
    month = timezone.now().date().replace(day=1)
    spent = {"budget_limit": 0, "monthly_spend": 1, "spend_month": month}
    made = run(scheduled(agent, workspace=spent), doorbell)
    assert (made.last_status, made.last_error) == ("error", "workspace budget limit exceeded")


def test_whatever_breaks_in_a_run_is_written_down(
    agent: FakeAgent, doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch
):
    def broken(*given: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(firing, "proxy_a2a", broken)
    made = run(scheduled(agent), doorbell)
    assert (made.last_status, made.last_error, made.slot) == ("error", "internal error", None)


def test_an_agent_that_thinks_too_long_is_not_asked_twice(
    agent: FakeAgent, doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(firing, "TURN_S", 0.3)
    agent.behaves(waits(most_s=5))
    made = run(scheduled(agent), doorbell)
    assert made.last_status == "error"
    assert not QueueItem.objects.exists()
    assert len(agent.requests) == 1


# --- A busy agent

BUSY = {"active_tasks": 1, "max_concurrent_tasks": 1}


def test_however_many_ticks_pass_a_busy_agent_has_one_message_of_each_schedule(
    agent: FakeAgent, doorbell: Doorbell
):
    made = scheduled(agent, workspace=BUSY)
    other = scheduled(agent, workspace=BUSY, prompt="other")
    Schedule.objects.filter(pk=other.pk).update(workspace=made.workspace)
    for _ in range(4):
        run(made, doorbell)
        run(other, doorbell)
    items = QueueItem.objects.filter(status=QueueStatus.QUEUED)
    assert {UUID(one.idempotency_key) for one in items} == {made.pk, other.pk}
    assert len(items) == 2
    item = items.get(idempotency_key=str(made.pk))
    assert (item.caller_kind, item.caller_label, item.caller_id) == ("system", "system:scheduler", None)
    assert item.expires_at is not None
    assert item.expires_at > timezone.now()
    assert agent.requests == []
    assert (made.last_status, made.last_error) == ("queued", "")
    assert {"schedule_id": str(made.pk), "schedule_name": made.name} in told("CRON_QUEUED")
    assert told("CRON_EXECUTED") == []
    assert lines()[0].status == "queued"


def test_a_workspace_with_another_hand_free_is_not_busy(agent: FakeAgent, doorbell: Doorbell):
    made = run(scheduled(agent, workspace={"active_tasks": 1, "max_concurrent_tasks": 2}), doorbell)
    assert made.last_status == "ok"


def test_a_message_that_waited_is_replaced_by_the_next_run(agent: FakeAgent, doorbell: Doorbell):
    made = run(scheduled(agent, workspace=BUSY), doorbell)
    QueueItem.objects.update(expires_at=timezone.now())
    run(made, doorbell)
    assert sorted(QueueItem.objects.values_list("status", flat=True)) == ["dropped", "queued"]
    assert [one["reason"] for one in told("CRON_SKIPPED")] == ["superseded"]
    assert made.last_status == "queued"


def test_a_run_that_waited_comes_to_its_end_when_the_agent_has_a_hand_free(
    agent: FakeAgent, doorbell: Doorbell
):
    heard: list[tuple[UUID, str]] = []
    hooks.answered.append(lambda workspace_id, text: heard.append((workspace_id, text)))
    made = run(scheduled(agent, workspace=BUSY), doorbell)
    Workspace.objects.update(active_tasks=0)
    assert drain(made.workspace_id) == 1
    made.refresh_from_db()
    assert (made.last_status, made.run_count) == ("ok", 1)
    assert [one.status for one in lines()] == ["queued", "ok"]
    assert [one["status"] for one in told("CRON_EXECUTED")] == ["ok"]
    assert heard == [(made.workspace_id, "echo: report")]


def test_a_message_that_leaves_the_queue_at_once_is_not_shown_as_waiting(
    agent: FakeAgent, doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch
):
    """Its end is written down before the run itself is."""
    made = scheduled(agent, workspace=BUSY, last_status="error")
    real = firing._kept

    def drained_at_once(*given: Any) -> Any:
        outcome = real(*given)
        Workspace.objects.update(active_tasks=0)
        assert drain(made.workspace_id) == 1
        return outcome

    monkeypatch.setattr(firing, "_kept", drained_at_once)
    run(made, doorbell)
    assert (made.last_status, made.run_count) == ("ok", 1)


def test_a_late_end_does_not_hide_a_later_run(agent: FakeAgent, doorbell: Doorbell):
    made = run(scheduled(agent, workspace=BUSY), doorbell)
    Schedule.objects.update(last_status="error", last_error="later")
    Workspace.objects.update(active_tasks=0)
    drain(made.workspace_id)
    made.refresh_from_db()
    assert (made.last_status, made.last_error) == ("error", "later")


def test_an_agent_that_declines_for_now_has_it_in_its_queue(agent: FakeAgent, doorbell: Doorbell):
    agent.behaves(answers({"error": "one at a time", "busy": True}, 503))
    made = scheduled(agent)
    for _ in range(3):
        run(made, doorbell)
    assert made.last_status == "queued"
    assert QueueItem.objects.get(status=QueueStatus.QUEUED).idempotency_key == str(made.pk)


def test_an_agent_that_is_being_started_has_it_in_its_queue(agent: FakeAgent, doorbell: Doorbell):
    starting = {"status": Status.PROVISIONING, "url": None}
    made = run(scheduled(agent, workspace=starting), doorbell)
    assert made.last_status == "queued"
    assert QueueItem.objects.get().idempotency_key == str(made.pk)


def test_what_cannot_be_queued_is_skipped_with_its_reason(agent: FakeAgent, doorbell: Doorbell):
    month = timezone.now().date().replace(day=1)
    spent = {"budget_limit": 0, "monthly_spend": 1, "spend_month": month}
    made = run(scheduled(agent, workspace={**BUSY, **spent}), doorbell)
    assert (made.last_status, made.last_error) == ("skipped", "workspace budget limit exceeded")
    expected = {
        "schedule_id": str(made.pk),
        "schedule_name": made.name,
        "reason": "workspace budget limit exceeded",
    }
    assert told("CRON_SKIPPED") == [expected]
    with statements_fail('INSERT INTO "a2a_queue"'):
        Workspace.objects.update(budget_limit=None)
        run(made, doorbell)
    assert (made.last_status, made.last_error) == ("skipped", "the message could not be queued")


# --- Many at once


def test_at_most_ten_are_under_way_and_the_others_follow(agent: FakeAgent, doorbell: Doorbell):
    agent.behaves(waits())
    made = [scheduled(agent) for _ in range(13)]
    tick(timezone.now())
    rings = doorbell.for_runs()
    doorbell.rung.clear()

    def watch() -> None:
        try:
            eventually(lambda: len(agent.requests) >= 10)
            eventually(lambda: Schedule.objects.waiting().count() == 3, within_s=5)
            assert len(agent.requests) == 10
        finally:
            agent.released.set()

    outcomes = at_once(watch, *[lambda one=one: firing.fire(one) for one in rings])
    assert outcomes == [None] * 14
    doorbell.work()
    assert len(agent.requests) == 13
    assert {one.last_status for one in Schedule.objects.all()} == {"ok"}
    assert len(made) == Schedule.objects.filter(run_count=1).count()


def test_a_slow_run_delays_no_other(agent: FakeAgent, doorbell: Doorbell):
    slow, quick = scheduled(agent), scheduled(agent)
    agent.behaves(waits(), echo)
    tick(timezone.now())

    def second() -> None:
        eventually(lambda: len(agent.requests) == 1)
        firing.fire(quick.pk)
        agent.released.set()

    assert at_once(lambda: firing.fire(slow.pk), second) == [None, None]
    assert [line.request_body["schedule_id"] for line in lines()] == [str(quick.pk), str(slow.pk)]


# --- Channels


def test_what_was_said_in_the_channels_goes_before_the_prompt(agent: FakeAgent, doorbell: Doorbell):
    def broken(_: UUID) -> str:
        raise RuntimeError("a bug")

    hooks.recent_context += [broken, lambda _: "", lambda one: f"about {one}\n"]
    made = run(scheduled(agent), doorbell)
    assert [seen.text for seen in agent.requests] == [f"about {made.workspace_id}\n\nreport"]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (answers(said("done")), ["done"]),
        (answers(said("(no response generated)")), []),
        (answers({"error": "x"}, 500), []),
        (rpc(kind="sdk_error", parts=[{"kind": "text", "text": "no"}]), []),
        (hangs_up, []),
    ],
    ids=["text", "nothing", "error", "refusal", "gone"],
)
def test_the_channels_get_the_text_of_a_run_that_went_well(
    behaviour: Any, expected: list[str], agent: FakeAgent, doorbell: Doorbell
):
    heard: list[str] = []

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    hooks.answered += [broken, lambda _, text: heard.append(text)]
    agent.behaves(behaviour)
    made = run(scheduled(agent), doorbell)
    assert heard == expected
    assert made.slot is None
