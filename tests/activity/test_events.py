"""Structure events: recorded with the change, published once it has committed, never in its way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from django.db import transaction
from django.utils import timezone

from activity.events import CHANNEL, SEEN_BY_PEERS, EventType, Frame, broadcast, log_event, record
from activity.models import MetricCounter, StructureEvent
from activity.tally import tally
from tests.clients import admin, agent_of, anonymous
from tests.outages import valkey_away
from tests.workspaces.factories import WorkspaceFactory

ONE = UUID("6f1c0a1e-4b7d-4a2f-9d3c-111122223333")
FAILURES = "molecule_event_publish_failures_total"


@pytest.fixture
def channel(valkey: redis.Redis) -> Any:
    """What a realtime process would read; call it for the frames so far."""
    subscription = valkey.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe(CHANNEL)
    while subscription.get_message(timeout=0.05) is not None or not subscription.subscribed:
        pass

    def read(count: int) -> list[dict[str, Any]]:
        found = []
        while len(found) < count and (message := subscription.get_message(timeout=5)) is not None:
            found.append(json.loads(message["data"]))
        assert subscription.get_message(timeout=0.05) is None
        return found

    yield read
    subscription.close()


def test_a_frame_is_four_keys_of_compact_json() -> None:
    frame = Frame(EventType.WORKSPACE_ONLINE, ONE, datetime(2026, 1, 1, tzinfo=UTC), {})
    assert frame.encoded() == (
        b'{"event":"WORKSPACE_ONLINE","workspace_id":"6f1c0a1e-4b7d-4a2f-9d3c-111122223333",'
        b'"timestamp":"2026-01-01T00:00:00.000000Z","payload":{}}'
    )


@pytest.mark.django_db(transaction=True)
def test_a_recorded_event_is_a_row_and_then_a_frame_with_its_time(channel: Any) -> None:
    with transaction.atomic():
        row = record(EventType.WORKSPACE_PAUSED, ONE, {"name": "Ada"})
        assert channel(0) == []
    (frame,) = channel(1)
    assert StructureEvent.objects.get().payload == frame["payload"] == {"name": "Ada"}
    assert (frame["event"], frame["workspace_id"]) == ("WORKSPACE_PAUSED", str(ONE))
    assert frame["timestamp"] == row.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.django_db(transaction=True)
def test_a_rollback_leaves_neither_row_nor_frame(channel: Any) -> None:
    with pytest.raises(RuntimeError):
        with transaction.atomic():
            record(EventType.WORKSPACE_ONLINE, ONE, {})
            broadcast(EventType.TASK_UPDATED, ONE, {})
            raise RuntimeError
    assert channel(0) == []
    assert not StructureEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_broadcast_leaves_no_row(channel: Any) -> None:
    broadcast(EventType.TASK_UPDATED, ONE, {"current_task": "x", "active_tasks": 1})
    (frame,) = channel(1)
    assert frame["payload"] == {"current_task": "x", "active_tasks": 1}
    assert not StructureEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_frames_leave_in_the_order_of_the_changes(channel: Any) -> None:
    with transaction.atomic():
        for number in range(20):
            record(EventType.WORKSPACE_DEGRADED, ONE, {"number": number})
    assert [frame["payload"]["number"] for frame in channel(20)] == list(range(20))


@pytest.mark.django_db(transaction=True)
def test_a_payload_that_cannot_be_stored_is_cleaned_not_lost(channel: Any) -> None:
    record(EventType.WORKSPACE_PROVISION_FAILED, ONE, {"error": "\x00 \ud800"})
    (frame,) = channel(1)
    assert frame["payload"] == {"error": "\ufffd \ufffd"}


@pytest.mark.django_db(transaction=True)
def test_an_event_that_cannot_be_stored_is_not_published(channel: Any) -> None:
    with pytest.raises(TypeError):
        record(EventType.WORKSPACE_ONLINE, ONE, {"x": object()})
    assert channel(0) == []


@pytest.mark.django_db(transaction=True)
def test_an_absent_valkey_fails_no_request_and_is_counted() -> None:
    workspace = WorkspaceFactory()
    with valkey_away():
        with transaction.atomic():
            record(EventType.WORKSPACE_ONLINE, ONE, {})
        answer = agent_of(workspace.pk).post(f"/workspaces/{workspace.pk}/notify", {"message": "m"})
    assert answer.status_code == 200
    assert StructureEvent.objects.count() == 1
    assert MetricCounter.objects.get(name=FAILURES).value == 2


# --- The names


@pytest.mark.parametrize(
    "name",
    ["ACTIVITY_LOGGED", "AGENT_MESSAGE", "A2A_RESPONSE", "WORKSPACE_HEARTBEAT", "WORKSPACE_RESTART_DECLINED"],
)
def test_what_is_said_to_an_agent_stays_with_it(name: str) -> None:
    assert name not in SEEN_BY_PEERS


# --- GET /events


@pytest.mark.django_db
def test_the_events_are_listed_newest_first() -> None:
    other = uuid4()
    for number, workspace_id in enumerate([ONE, other, ONE]):
        record(EventType.WORKSPACE_ONLINE, workspace_id, {"number": number})
    every = admin().get("/events").json()
    assert [row["payload"]["number"] for row in every] == [2, 1, 0]
    assert set(every[0]) == {"id", "event_type", "workspace_id", "payload", "created_at"}
    assert every[0]["created_at"].endswith("Z")
    assert [row["payload"]["number"] for row in admin().get(f"/events/{ONE}").json()] == [2, 0]


@pytest.mark.django_db
def test_a_list_of_events_has_at_most_100() -> None:
    for _ in range(101):
        record(EventType.WORKSPACE_ONLINE, ONE, {})
    assert len(admin().get("/events").json()) == 100


@pytest.mark.django_db
@pytest.mark.parametrize(("limit", "count"), [("7", 7), ("500", 500), ("9999", 500), ("0", 100), ("x", 100)])
def test_the_limit_of_events_is_a_number_or_the_default(limit: str, count: int) -> None:
    now = timezone.now()
    rows = [StructureEvent(event_type="WORKSPACE_ONLINE", created_at=now) for _ in range(501)]
    StructureEvent.objects.bulk_create(rows)
    assert len(admin().get("/events", limit=limit).json()) == count


@pytest.mark.django_db
def test_events_are_filtered_by_type_and_time() -> None:
    first = record(EventType.WORKSPACE_ONLINE, ONE, {})
    second = record(EventType.WORKSPACE_OFFLINE, ONE, {})

    def ids(**params: str) -> list[str]:
        return [row["id"] for row in admin().get("/events", **params).json()]

    assert ids(type="WORKSPACE_ONLINE") == [str(first.pk)]
    assert ids(type="NO_SUCH") == []
    shown = admin().get("/events").json()
    assert ids(before=shown[0]["created_at"]) == [str(first.pk)]
    assert ids(before=shown[1]["created_at"]) == []
    assert admin().get(f"/events/{ONE}", type="WORKSPACE_OFFLINE").json()[0]["id"] == str(second.pk)
    for bad in ("yesterday", "2026-01-31", "2026-01-31T12:00:00"):
        answer = admin().get("/events", before=bad)
        assert (answer.status_code, answer.json()["error"].split()[0]) == (400, "before")


@pytest.mark.django_db
def test_an_event_of_the_deployment_is_a_row_and_no_frame(channel: Any) -> None:
    log_event(EventType.ORG_IMPORT_STARTED, {"name": "x", "dir": "", "mode": "merge", "actor": "admin-token"})
    assert channel(0) == []
    (row,) = admin().get("/events").json()
    assert (row["event_type"], row["workspace_id"]) == ("org.import.started", None)


@pytest.mark.django_db
def test_the_agent_and_the_target_are_columns_too() -> None:
    agent, target = str(uuid4()), str(uuid4())
    row = record(EventType.DELEGATION_STATUS, ONE, {"agent_id": agent, "target_id": target})
    row.refresh_from_db()
    assert (str(row.agent_id), str(row.target_id)) == (agent, target)


@pytest.mark.django_db(transaction=True)
def test_keys_of_the_payload_may_stand_beside_it(channel: Any) -> None:
    broadcast(EventType.APPROVAL_DECIDED, ONE, {"a": 1, "b": 2}, top=("a",))
    (frame,) = channel(1)
    assert set(frame) == {"event", "workspace_id", "timestamp", "payload", "a"}
    assert (frame["a"], frame["payload"]) == (1, {"a": 1, "b": 2})


@pytest.mark.django_db(transaction=True)
def test_published_frames_are_counted_by_event(channel: Any) -> None:
    tally.flush()
    series = MetricCounter.objects.filter(
        name="molecule_events_published_total", labels='event="WORKSPACE_MOVED"'
    )
    before = sum(series.values_list("value", flat=True))
    for _ in range(3):
        record(EventType.WORKSPACE_MOVED, ONE, {})
    tally.flush()
    assert sum(series.values_list("value", flat=True)) == before + 3


@pytest.mark.django_db
def test_no_events_are_an_empty_array() -> None:
    assert admin().get("/events").content == b"[]"
    assert admin().get("/events/global").status_code == 400


@pytest.mark.django_db
def test_the_events_show_the_tree_and_are_an_operators() -> None:
    workspace = WorkspaceFactory()
    for path in ("/events", f"/events/{workspace.pk}"):
        assert anonymous().get(path).status_code == 401
        assert agent_of(workspace.pk).get(path).status_code == 401
