"""The proxy: who may send, what the agent sees, what the caller is told, what is written."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client

from a2a import wire
from a2a.callers import CANVAS
from a2a.models import QueueItem
from a2a.services import queue
from a2a.services.drain import drain
from activity.metrics import render
from activity.models import ActivityLog, StructureEvent
from activity.tally import tally
from provisioning.backends.base import ComputeState
from tests.a2a.fake_agent import answers, breaks_off, echo, hangs_up, said, waits
from tests.a2a.talking import as_workspace, at, message, say
from tests.clients import Api, admin, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import DeliveryMode, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def row_of(target: Workspace) -> ActivityLog:
    return ActivityLog.objects.get(workspace_id=target.pk)


# --- Who


@pytest.mark.parametrize("claimed", ["system:x", "webhook:github", "test:1", "channel:2", "junk"])
def test_a_forged_caller_is_refused_and_leaves_no_row(agent, claimed: str):
    answer = say(at(agent), api=Api(ADMIN_TOKEN, HTTP_X_WORKSPACE_ID=claimed))
    assert (answer.status_code, answer.json()) == (403, {"error": "invalid caller ID"})
    assert (agent.requests, ActivityLog.objects.count()) == ([], 0)


def test_every_credential_with_and_without_the_header(agent):
    target = at(agent)
    one, other = WorkspaceFactory(), WorkspaceFactory()
    gone = WorkspaceFactory()
    dead = as_workspace(gone)
    Workspace.objects.filter(pk=gone.pk).update(status=Status.REMOVED)
    missing, invalid = {"error": "missing caller auth token"}, {"error": "invalid caller auth token"}
    cases: list[tuple[Api, Any, UUID | None]] = [
        (anonymous(), missing, None),
        (Api(HTTP_X_WORKSPACE_ID=str(one.pk)), missing, None),
        (Api("junk"), invalid, None),
        (dead, invalid, None),
        (as_workspace(one, HTTP_X_WORKSPACE_ID=str(other.pk)), invalid, None),
        (as_workspace(target, HTTP_X_WORKSPACE_ID=str(other.pk)), invalid, None),
        (as_workspace(one), 200, one.pk),
        (as_workspace(one, HTTP_X_WORKSPACE_ID=str(one.pk)), 200, one.pk),
        (admin(), 200, None),
        (Api(ADMIN_TOKEN, HTTP_X_WORKSPACE_ID=str(one.pk)), 200, None),  # never in its name
    ]
    for api, expected, source in cases:
        ActivityLog.objects.all().delete()
        answer = say(target, api=api)
        if isinstance(expected, dict):
            assert (answer.status_code, answer.json()) == (401, expected)
            assert not ActivityLog.objects.exists()
        else:
            assert answer.status_code == expected, answer.content
            assert row_of(target).source_id == source


def test_inside_the_hatch_a_header_is_enough(agent, settings: Any):
    settings.ADMIN_TOKEN, settings.MOLECULE_DEV_OPEN, settings.MOLECULE_ENV = "", True, "development"
    target, one = at(agent), WorkspaceFactory()
    assert say(target, api=Api(HTTP_X_WORKSPACE_ID=str(one.pk))).status_code == 200
    assert row_of(target).source_id == one.pk
    assert say(target, api=Api("junk")).status_code == 401


def test_cousins_may_not_and_the_line_of_ancestors_may(agent):
    top = WorkspaceFactory()
    middle = WorkspaceFactory(parent=top)
    bottom = at(agent, parent=middle)
    cousin = WorkspaceFactory(parent=WorkspaceFactory(parent=top))
    assert say(bottom, api=as_workspace(top)).status_code == 200
    answer = say(bottom, api=as_workspace(cousin))
    assert answer.status_code == 403
    assert answer.json() == {"error": "access denied: workspaces cannot communicate per hierarchy rules"}


# --- The envelope


def test_how_long_a_call_took_is_measured(agent):
    tally.forget()  # what earlier tests counted
    agent.behaves(waits(most_s=0.3))
    say(at(agent))
    tally.flush()
    text, name = render(), "molecule_a2a_request_seconds"
    assert f"# TYPE {name} histogram" in text
    assert f"{name}_count 1" in text
    assert f'{name}_bucket{{le="0.25"}}' not in text
    assert f'{name}_bucket{{le="1800"}} 1' in text


def test_a_bare_message_is_wrapped(agent):
    target = at(agent)
    say(target)
    body = agent.requests[0].body
    assert body["jsonrpc"] == "2.0"
    assert UUID(body["id"])
    assert UUID(body["params"]["message"]["messageId"])
    assert agent.requests[0].headers["content-type"] == "application/json"


def test_a_full_envelope_keeps_its_id_and_the_answer_its_bytes(agent):
    raw = b'{"jsonrpc":"2.0",  "id":"custom-id-123", "result":{"parts":[{"kind":"text","text":"\\u4e16"}]}}'
    agent.behaves(answers(raw))
    body = {"jsonrpc": "2.0", "id": "custom-id-123", **message()}
    answer = admin().post(f"/workspaces/{at(agent).pk}/a2a", body)
    assert answer.content == raw
    assert answer.headers["Content-Type"] == "application/json"
    assert agent.requests[0].body["id"] == "custom-id-123"


@pytest.mark.parametrize("raw", [b"not json", b"", b"[]", b"   ", b'{"method":'])
def test_what_is_no_object_is_no_message(raw: bytes):
    target = WorkspaceFactory()
    client = Client(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}")
    answer = client.post(f"/workspaces/{target.pk}/a2a", raw, content_type="application/json")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid JSON"})


def test_other_methods_are_passed_on_and_never_queued(agent):
    agent.behaves(
        answers({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "Method not found"}})
    )
    target = at(agent)
    answer = admin().post(f"/workspaces/{target.pk}/a2a", {"method": "tasks/get", "params": {"id": "t"}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32601)
    agent.behaves(hangs_up)
    answer = admin().post(f"/workspaces/{target.pk}/a2a", {"method": "tasks/get", "params": {"id": "t"}})
    assert (answer.status_code, answer.json()) == (
        503,
        {
            "error": "workspace agent busy — retry after a short backoff",
            "busy": True,
            "retry_after": 30,
        },
    )
    assert answer.headers["Retry-After"] == "30"
    assert not QueueItem.objects.exists()


def test_a_large_message_passes_and_a_huge_one_says_how_large_it_may_be(agent):
    target = at(agent)
    assert say(target, "x" * 1_500_000).status_code == 200
    assert len(agent.requests[0].text) == 1_500_000
    answer = say(target, "x" * 17 * 1024 * 1024)
    assert (answer.status_code, answer.json()["max_bytes"]) == (413, 16777216)


# --- What the agent does


def test_an_error_of_the_agent_keeps_its_status_and_its_words(agent):
    agent.behaves(answers({"jsonrpc": "2.0", "error": {"code": 1, "message": "out of beans"}}, 500))
    target = at(agent)
    answer = say(target)
    assert (answer.status_code, answer.json()) == (500, {"error": "out of beans"})
    assert (row_of(target).status, row_of(target).error_detail) == ("error", "out of beans")


def test_a_redirect_is_not_followed(agent):
    agent.behaves(lambda exchange: exchange.send(302, {}, Location="http://169.254.169.254/"))
    answer = say(at(agent))
    assert (answer.status_code, answer.json()) == (302, {"error": "Found"})
    assert len(agent.requests) == 1


def test_an_answer_that_breaks_off_was_delivered_and_is_not_asked_for_again(agent):
    agent.behaves(breaks_off)
    target = at(agent)
    answer = say(target)
    assert (answer.status_code, answer.json()) == (
        502,
        {"error": "failed to read agent response", "delivery_confirmed": True},
    )
    row = row_of(target)
    assert (row.status, row.response_body, len(agent.requests)) == ("ok", None, 1)


@pytest.mark.parametrize("body", [{"status": "queued"}, {"queued": True}, {}, "text", []])
def test_an_ack_is_no_answer(agent, body: Any):
    agent.behaves(answers(body))
    answer = say(at(agent))
    assert (answer.status_code, answer.json()["delivery_confirmed"]) == (502, True)


def test_a_busy_agent_has_its_message_queued_and_a_repeat_finds_it(agent, published):
    agent.behaves(hangs_up)
    target = at(agent)
    first, second = (say(target, messageId="m-1") for _ in range(2))
    item = QueueItem.objects.get()
    assert (first.status_code, first.json()) == (
        202,
        {
            "queued": True,
            "queue_id": str(item.pk),
            "queue_depth": 1,
            "message": "workspace agent busy — request queued, will dispatch when capacity available",
        },
    )
    assert (second.status_code, second.json()["queue_id"], second.json()["queue_depth"]) == (
        202,
        str(item.pk),
        1,
    )
    row = row_of(target)
    assert (row.status, row.duration_ms, row.response_body) == ("ok", None, None)
    assert row.summary.endswith("(queued: target busy)")
    assert len(agent.requests) == 1
    assert [frame.event for frame in published] == []


@pytest.mark.parametrize(("status", "body"), [(429, {}), (503, {"busy": True})])
def test_an_agent_that_says_it_is_busy(agent, status: int, body: Any):
    agent.behaves(answers(body, status))
    assert say(at(agent)).status_code == 202


def test_a_gateway_in_between_is_passed_through(agent):
    agent.behaves(answers(b"<html>", 503))
    answer = say(at(agent))
    assert (answer.status_code, answer.json()) == (503, {"error": "Service Unavailable"})
    assert not QueueItem.objects.exists()


def test_a_target_whose_compute_is_gone_is_marked_and_restarted_once(agent, backend, published):
    target = at(agent)
    agent.close()
    assert backend.status(target.pk) == ComputeState.NOT_RUNNING
    answer = say(target)
    assert (answer.status_code, answer.json()) == (
        503,
        {
            "error": "workspace agent unreachable — container restart triggered",
            "restarting": True,
            "retry_after": 15,
        },
    )
    assert answer.headers["Retry-After"] == "15"
    assert Workspace.objects.get(pk=target.pk).status in {Status.OFFLINE, Status.PROVISIONING}
    say(target)
    offline = StructureEvent.objects.filter(event_type="WORKSPACE_OFFLINE")
    assert (offline.count(), offline.get().payload) == (1, {})


def test_an_external_target_cannot_be_verified(agent, backend):
    target = at(agent, runtime="external")
    agent.close()
    answer = say(target)
    assert (answer.status_code, answer.json()) == (502, {"error": "failed to reach workspace agent"})
    assert Workspace.objects.get(pk=target.pk).status == Status.ONLINE


# --- Time


def test_a_deadline_in_a_header_is_kept(agent):
    agent.behaves(waits())
    target, sender = at(agent), WorkspaceFactory()
    began = time.monotonic()
    answer = say(target, api=as_workspace(sender, HTTP_X_TIMEOUT="1"))
    assert answer.status_code == 202
    assert 0.9 < time.monotonic() - began < 10
    agent.released.set()


def test_a_silent_agent_is_let_go_and_one_that_beats_is_not(agent, settings: Any):
    settings.A2A_IDLE_TIMEOUT_SECONDS = 6
    agent.behaves(waits())
    target = at(agent)
    began = time.monotonic()
    assert say(target, messageId="a").status_code == 202
    assert 5.9 < time.monotonic() - began < 60
    over = threading.Event()
    beats = as_workspace(target)

    def keep_beating() -> None:
        body = {"workspace_id": str(target.pk), "active_tasks": 1, "uptime_seconds": 5, "error_rate": 0}
        while not over.wait(0.3):
            beats.post("/registry/heartbeat", body)

    answer: list[Any] = []
    beating = threading.Thread(target=lambda: at_once(keep_beating))
    asking = threading.Thread(target=lambda: at_once(lambda: answer.append(say(target, messageId="b"))))
    beating.start()
    asking.start()
    eventually(lambda: len(agent.requests) == 2, within_s=30)
    asking.join(14)
    assert asking.is_alive()  # longer than its patience, and still waited for
    agent.released.set()
    asking.join(20)
    over.set()
    beating.join(20)
    assert answer[0].status_code == 200


# --- Rows and events


def test_one_event_per_message_when_its_outcome_is_known(agent, published):
    target = at(agent)
    agent.behaves(answers(said("hello", usage={"input_tokens": 5, "output_tokens": 7})))
    say(target, messageId="m-1")
    row = row_of(target)
    assert (row.status, row.summary) == ("ok", f"message/send → {target.name}")
    assert row.duration_ms >= 1
    assert [one.event for one in published] == ["ACTIVITY_LOGGED", "A2A_RESPONSE"]
    assert published[1].payload["message_id"] == "m-1"
    from workspaces.models import TokenUsage

    assert (TokenUsage.objects.get().input_tokens, TokenUsage.objects.get().output_tokens) == (5, 7)


def test_a_workspaces_call_says_when_it_last_spoke_and_no_canvas_hears_the_answer(agent, published):
    sender, target = WorkspaceFactory(), at(agent)
    say(target, api=as_workspace(sender))
    assert Workspace.objects.get(pk=sender.pk).last_outbound_at is not None
    assert [one.event for one in published] == ["ACTIVITY_LOGGED"]


def test_a_poll_target_is_never_called(agent, published):
    target = at(agent, delivery_mode=DeliveryMode.POLL)
    answer = say(target)
    assert answer.json() == {"status": "queued", "delivery_mode": "poll", "method": "message/send"}
    assert (agent.requests, [one.event for one in published]) == ([], ["ACTIVITY_LOGGED"])
    assert row_of(target).summary == f"message/send → {target.name} (queued for poll)"


def test_a_sleeping_target_is_woken_once_by_ten_at_once(backend):
    target = WorkspaceFactory(status=Status.HIBERNATED, url=None)
    answers_ = at_once(*(lambda: say(target),) * 10)
    assert {one.status_code for one in answers_} == {503}
    woken = StructureEvent.objects.filter(event_type="WORKSPACE_PROVISIONING", workspace_id=target.pk)
    assert woken.count() == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5/", "http://127.0.0.1:1/", "http://169.254.169.254/", "http://100.64.0.1/",
        "http://[::ffff:169.254.169.254]/",
    ],
)  # fmt: skip
def test_addresses_that_must_not_be_called(url: str):
    answer = say(WorkspaceFactory(url=url))
    assert (answer.status_code, answer.json()) == (502, {"error": "workspace URL is not publicly routable"})


def test_a_name_without_an_address_is_no_refusal(agent):
    """It may have one in a moment: a queued message must not be failed at once."""
    target = WorkspaceFactory(url="http://no-such-host.invalid/")
    answer = say(target)
    assert (answer.status_code, answer.json()) == (502, {"error": "failed to reach workspace agent"})
    item = queue.enqueue_message(target.pk, message("again", messageId="again"), CANVAS).item
    drain(target.pk)
    item.refresh_from_db()
    assert (item.status, item.attempts) == ("queued", 1)


@pytest.mark.parametrize("failures", [2, 99])
def test_the_name_of_our_own_compute_is_asked_for_again(agent, monkeypatch, failures: int):
    monkeypatch.setattr(wire, "NAME_PAUSE_S", 0.01)
    port, asked, resolve = agent.url.rpartition(":")[2], [], socket.getaddrinfo

    def resolver(host: Any, *rest: Any, **more: Any) -> Any:
        if host not in {"ws-back-soon", b"ws-back-soon"}:
            return resolve(host, *rest, **more)
        asked.append(host)
        if len(asked) <= failures:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return resolve("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    answer = say(at(agent, url=f"http://ws-back-soon:{port}"))
    if failures == 2:
        assert (answer.status_code, len(asked), len(agent.requests)) == (200, 3, 1)
    else:
        assert (answer.status_code, len(asked), len(agent.requests)) == (502, wire.NAME_TRIES + 1, 0)


def test_no_connection_is_held_while_the_agent_thinks(agent):
    from django.db import connection

    agent.behaves(waits(echo))
    target = at(agent)
    asking = threading.Thread(target=lambda: at_once(lambda: say(target)))
    asking.start()
    eventually(lambda: bool(agent.requests))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%%'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] == 0
    agent.released.set()
    asking.join(20)


def test_an_unknown_target_comes_before_everything():
    answer = admin().post(f"/workspaces/{uuid4()}/a2a", {"nonsense": True})
    assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})
