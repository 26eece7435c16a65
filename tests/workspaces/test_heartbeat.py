"""POST /registry/heartbeat."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from activity import events
from activity.models import ActivityLog, StructureEvent
from tests.clients import Api, agent_of, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces import hooks
from workspaces.cache import alive_key, ask_for_slot, runtime_key
from workspaces.models import EXTERNAL, Status, Workspace
from workspaces.services import remove_workspace

pytestmark = pytest.mark.django_db
FULL = {"error_rate": 0, "active_tasks": 0, "current_task": "", "uptime_seconds": 60}


def beat(api: Api, row: Workspace, **body: Any) -> Any:
    return api.post("/registry/heartbeat", {"workspace_id": str(row.pk), **body})


def recorded() -> list[str]:
    return list(StructureEvent.objects.order_by("seq").values_list("event_type", flat=True))


def test_a_beat_is_stored_and_answers_with_the_secret(valkey):
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    answer = beat(agent, row, error_rate=0.2, active_tasks=1, current_task="reading", uptime_seconds=60.9)
    assert answer.json()["status"] == "ok"
    assert len(answer.json()["platform_inbound_secret"]) == 43
    row.refresh_from_db()
    assert (row.last_error_rate, row.active_tasks, row.current_task, row.uptime_seconds) == (
        0.2,
        1,
        "reading",
        60,
    )
    assert row.last_heartbeat_at is not None
    assert 170 < valkey.ttl(alive_key(row.pk)) <= 180
    assert not ActivityLog.objects.exists()


def test_an_expired_liveness_key_comes_back(valkey):
    row = WorkspaceFactory()
    valkey.delete(alive_key(row.pk))
    beat(agent_of(row.pk), row)
    assert valkey.ttl(alive_key(row.pk)) > 0


def test_a_beat_that_changes_nothing_costs_two_statements(valkey):
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    beat(agent, row, **FULL)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert beat(agent, row, **FULL).status_code == 200
    assert len(asked) == 2


def test_absent_keys_keep_what_is_stored():
    row = WorkspaceFactory(current_task="reading", active_tasks=1, last_error_rate=0.3, uptime_seconds=5)
    beat(agent_of(row.pk), row, uptime_seconds=9)
    row.refresh_from_db()
    assert (row.current_task, row.active_tasks, row.last_error_rate, row.uptime_seconds) == (
        "reading",
        1,
        0.3,
        9,
    )


@pytest.mark.parametrize(
    "status", [Status.PROVISIONING, Status.OFFLINE, Status.AWAITING_AGENT, Status.FAILED]
)
def test_a_living_agent_brings_its_workspace_online(status, published):
    row = WorkspaceFactory(status=status, last_sample_error="boom")
    beat(agent_of(row.pk, generation=1), row, **FULL)
    row.refresh_from_db()
    assert (row.status, row.last_sample_error) == (Status.ONLINE, None)
    assert recorded() == ["WORKSPACE_ONLINE"]
    recovered = {} if status == Status.OFFLINE else {"recovered_from": status}
    assert StructureEvent.objects.get().payload == recovered


@pytest.mark.parametrize("status", [Status.PROVISIONING, Status.FAILED])
def test_the_old_process_of_a_restarting_workspace_changes_no_status(status):
    row = WorkspaceFactory(status=status, generation=2, last_sample_error="boom")
    assert beat(agent_of(row.pk, generation=1), row, **FULL).status_code == 200
    row.refresh_from_db()
    assert row.status == status
    assert recorded() == []


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATING, Status.HIBERNATED])
def test_a_parked_workspace_only_shows_that_something_called(status):
    row = WorkspaceFactory(status=status, current_task="")
    beat(agent_of(row.pk), row, active_tasks=3, current_task="reading")
    row.refresh_from_db()
    assert (row.status, row.active_tasks, row.current_task) == (status, 0, "")
    assert row.last_heartbeat_at is not None
    assert recorded() == []


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [
        (Status.ONLINE, {"error_rate": 0.5}, Status.DEGRADED),
        (Status.ONLINE, {"error_rate": 0.49}, Status.ONLINE),
        (Status.DEGRADED, {"error_rate": 0.1, "uptime_seconds": 5}, Status.DEGRADED),
        (Status.DEGRADED, {"error_rate": 0.09, "uptime_seconds": 5}, Status.ONLINE),
        (Status.ONLINE, {"error_rate": 0, "runtime_state": "wedged"}, Status.DEGRADED),
        (Status.DEGRADED, {"error_rate": 0, "runtime_state": "wedged"}, Status.DEGRADED),
        (Status.DEGRADED, {"error_rate": 0, "runtime_state": "thinking"}, Status.DEGRADED),
        (
            Status.ONLINE,
            {"error_rate": 1, "runtime_metadata": {"capabilities": {"status_mgmt": True}}},
            Status.ONLINE,
        ),
        (
            Status.ONLINE,
            {"runtime_state": "wedged", "runtime_metadata": {"capabilities": {"status_mgmt": True}}},
            Status.DEGRADED,
        ),
    ],
)
def test_error_rates_and_a_wedge_decide_between_online_and_degraded(before, body, after, valkey):
    row = WorkspaceFactory(status=before)
    beat(agent_of(row.pk), row, **body)
    row.refresh_from_db()
    assert row.status == after
    assert len(recorded()) == (0 if before == after else 1)


def test_a_declared_capability_is_remembered_between_beats(valkey):
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    beat(agent, row, runtime_metadata={"capabilities": {"status_mgmt": True}})
    beat(agent, row, error_rate=0.9)
    row.refresh_from_db()
    assert row.status == Status.ONLINE


def test_a_task_push_is_not_a_report(published):
    row = WorkspaceFactory(
        status=Status.DEGRADED, uptime_seconds=60, last_error_rate=0.7, last_sample_error="boom"
    )
    agent = agent_of(row.pk)
    beat(agent, row, uptime_seconds=0, error_rate=0, active_tasks=1, current_task="reading")
    row.refresh_from_db()
    assert (row.status, row.uptime_seconds, row.last_error_rate) == (Status.DEGRADED, 60, 0.7)
    assert (row.last_sample_error, row.current_task, row.active_tasks) == ("boom", "reading", 1)


def test_odd_numbers_are_clamped_and_texts_cut():
    row = WorkspaceFactory(monthly_spend=7)
    agent = agent_of(row.pk)
    beat(
        agent,
        row,
        error_rate=7,
        active_tasks=-3,
        monthly_spend=-5,
        sample_error="é" * 9000,
        current_task="a\x00b",
    )
    row.refresh_from_db()
    assert (row.last_error_rate, row.active_tasks, row.monthly_spend, row.current_task) == (1, 0, 7, "ab")
    assert len((row.last_sample_error or "").encode()) == 8192
    beat(agent, row, monthly_spend=10**15)
    row.refresh_from_db()
    assert row.monthly_spend == 10**12
    assert row.spend_month == timezone.now().date().replace(day=1)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"workspace_id": "x"},
        {"workspace_id": 7},
        ["beat"],
        {"workspace_id": str(uuid4()), "error_rate": "high"},
    ],
)
def test_a_malformed_beat_is_refused(body):
    answer = anonymous().post("/registry/heartbeat", body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_who_may_beat():
    row, other = WorkspaceFactory(), WorkspaceFactory()
    agent = agent_of(row.pk)
    assert beat(anonymous(), row).status_code == 401
    assert beat(agent_of(other.pk), row).json() == {"error": "invalid workspace auth token"}
    assert anonymous().post("/registry/heartbeat", {"workspace_id": str(uuid4())}).status_code == 404
    assert (
        anonymous().post("/registry/heartbeat", {"id": str(row.pk)}).status_code == 401
    )  # the alias is read
    row.refresh_from_db()
    assert row.last_heartbeat_at is None
    assert beat(agent, row).status_code == 200


def test_a_caller_without_a_token_gets_no_secret():
    assert beat(anonymous(), WorkspaceFactory()).json() == {"status": "ok"}


def test_the_idle_clock_starts_with_the_last_task():
    row = WorkspaceFactory(active_tasks=2, idle_since=None)
    agent = agent_of(row.pk)
    beat(agent, row, active_tasks=1)
    row.refresh_from_db()
    assert row.idle_since is None
    beat(agent, row, active_tasks=0)
    row.refresh_from_db()
    since = row.idle_since
    assert since > timezone.now() - timedelta(seconds=5)
    beat(agent, row, active_tasks=0)
    row.refresh_from_db()
    assert row.idle_since == since


def test_without_valkey_a_beat_still_counts(monkeypatch):
    monkeypatch.setattr(events, "client", lambda: redis.Redis(port=1, socket_connect_timeout=0.2))
    row = WorkspaceFactory(status=Status.OFFLINE)
    assert beat(agent_of(row.pk), row, **FULL).status_code == 200
    row.refresh_from_db()
    assert row.status == Status.ONLINE


@pytest.mark.django_db(transaction=True)
def test_a_beat_racing_a_delete_never_revives():
    for _ in range(8):
        row = WorkspaceFactory(status=Status.OFFLINE)
        agent = agent_of(row.pk)
        outcomes = at_once(
            lambda: beat(agent, row, **FULL), lambda: remove_workspace(workspace_id=row.pk, confirmed=True)
        )
        assert outcomes[0].status_code in {200, 401}
        row.refresh_from_db()
        assert row.status == Status.REMOVED
        order = list(
            StructureEvent.objects.filter(workspace_id=row.pk)
            .order_by("seq")
            .values_list("event_type", flat=True)
        )
        assert order[-1] == "WORKSPACE_REMOVED"


@pytest.mark.django_db(transaction=True)
def test_of_many_beats_with_one_new_task_one_announces_it(valkey):
    row = WorkspaceFactory(runtime=EXTERNAL)
    agent = agent_of(row.pk)
    beat(agent, row)
    channel = valkey.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("events:broadcast")
    channel.get_message(timeout=1)
    at_once(*[lambda: beat(agent, row, current_task="reading", active_tasks=1)] * 6)
    frames = []
    while message := channel.get_message(timeout=0.5):
        frames.append(message["data"])
    assert sum(b'"TASK_UPDATED"' in frame for frame in frames) == 1
    assert sum(b'"WORKSPACE_HEARTBEAT"' in frame for frame in frames) == 6


# --- What a runtime declares


def declared(valkey: Any, row: Workspace) -> Any:
    stored = valkey.get(runtime_key(row.pk))
    return orjson.loads(stored) if stored else None


def test_what_a_runtime_declares_is_kept_replaced_and_cleared(valkey):
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    beat(agent, row, runtime_metadata={"capabilities": {"scheduler": True}, "idle_timeout_seconds": 900})
    assert declared(valkey, row) == {"capabilities": {"scheduler": True}, "idle_timeout_seconds": 900}
    assert 0 < valkey.ttl(runtime_key(row.pk)) <= 86_400
    beat(agent, row, uptime_seconds=9)
    assert declared(valkey, row) is not None
    beat(agent, row, runtime_metadata={"capabilities": {"retry": False}})
    assert declared(valkey, row) == {"capabilities": {"retry": False}, "idle_timeout_seconds": None}
    for nothing in (None, {}):
        beat(agent, row, runtime_metadata={"idle_timeout_seconds": 5})
        beat(agent, row, uptime_seconds=0, current_task="", runtime_metadata=nothing)  # a task push
        assert declared(valkey, row) is not None
        beat(agent, row, uptime_seconds=9, runtime_metadata=nothing)
        assert declared(valkey, row) is None


def test_what_is_not_understood_is_left_out(valkey):
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    odd = {
        "capabilities": {"status_mgmt": "yes", "flying": True, "session": True},
        "idle_timeout_seconds": -1,
    }
    beat(agent, row, runtime_metadata=odd)
    assert declared(valkey, row) == {"capabilities": {"session": True}, "idle_timeout_seconds": None}
    answer = beat(agent, row, error_rate=0.9, runtime_metadata={"capabilities": ["status_mgmt"]})
    assert answer.status_code == 200
    assert beat(agent, row, runtime_metadata="all of them").status_code == 400


# --- A card that comes with a beat


def test_a_beat_brings_the_card_of_a_lost_registration_and_replaces_none():
    row = WorkspaceFactory(name="Ada", role="reads mail")
    agent = agent_of(row.pk)
    beat(agent, row, agent_card={"name": "", "url": "http://169.254.169.254/", "skills": ["a\x00"]})
    row.refresh_from_db()
    assert row.agent_card == {
        "name": "Ada", "description": "Ada", "role": "reads mail", "skills": ["a\ufffd"],
    }  # fmt: skip
    beat(agent, row, agent_card={"name": "other"})
    row.refresh_from_db()
    assert row.agent_card["name"] == "Ada"


def test_an_unusable_card_does_not_cost_the_beat():
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    for card in ("Ada", [], {}, {"name": "x" * 300_000}):
        assert beat(agent, row, agent_card=card).status_code == 200
    row.refresh_from_db()
    assert row.agent_card is None


# --- Room for another task


def test_a_living_workspace_with_a_free_slot_asks_for_the_work_that_waits(monkeypatch, valkey):
    asked: list[Any] = []
    monkeypatch.setattr(hooks, "has_free_slot", [asked.append])
    row = WorkspaceFactory(max_concurrent_tasks=2)
    agent = agent_of(row.pk)
    beat(agent, row, active_tasks=1)
    assert asked == []  # nobody waits for it
    ask_for_slot(row.pk)
    for _ in range(2):
        beat(agent, row, active_tasks=1)
        assert asked == [row.pk]
    ask_for_slot(row.pk)
    beat(agent, row, active_tasks=2)
    assert asked == [row.pk]
    beat(agent, row, active_tasks=1)
    assert asked == [row.pk, row.pk]
    asked.pop()
    parked = WorkspaceFactory(status=Status.PAUSED)
    beat(agent_of(parked.pk), parked, active_tasks=0)
    assert asked == [row.pk]


# --- Failures


@pytest.mark.django_db(transaction=True)
def test_a_write_that_fails_says_so(monkeypatch):
    from workspaces.services import heartbeats

    monkeypatch.setattr(heartbeats, "_WRITE", "SELECT 1 / 0")
    row = WorkspaceFactory(status=Status.OFFLINE)
    answer = beat(agent_of(row.pk), row, **FULL)
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to update"})
    row.refresh_from_db()
    assert row.status == Status.OFFLINE
    assert recorded() == []


def test_a_removed_workspace_is_told_so_in_the_words_runtimes_react_to():
    row = WorkspaceFactory(status=Status.REMOVED)
    answer = beat(anonymous(), row)
    assert answer.status_code == 401
    body = answer.json()
    assert (body["error"], body["code"], body["id"]) == (
        "workspace removed",
        "workspace_removed",
        str(row.pk),
    )
    assert "hint" in body
