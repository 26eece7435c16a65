"""A callee answers by a message of its own: it names the delegation, or there is only one it can mean."""

from __future__ import annotations

from typing import Any

import pytest

from activity.models import ActivityLog
from delegations.models import Delegation
from tests.clients import agent_of
from tests.conftest import at_once
from tests.delegations.factories import delegated, fresh, inbox, pair, told
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import DeliveryMode, Workspace

pytestmark = pytest.mark.django_db(transaction=True)
POLL = {"delivery_mode": DeliveryMode.POLL}


@pytest.fixture
def two(doorbell: Any) -> tuple[Workspace, Workspace]:
    """Caller and callee, both with an inbox."""
    caller, callee = pair(**POLL)
    Workspace.objects.filter(pk=caller.pk).update(delivery_mode=DeliveryMode.POLL)
    return caller, callee


def handed(two: tuple[Workspace, Workspace], doorbell: Any, text: str = "count the beans") -> Delegation:
    row = delegated(*two, text=text)
    doorbell.work()
    assert (fresh(row).delivery, fresh(row).status) == ("poll", "dispatched")
    return row


def say(sender: Workspace, target: Workspace, text: str, *, params: Any = None, **message: Any) -> int:
    parts = [{"kind": "text", "text": text}]
    body = {"method": "message/send", "params": {"message": {"parts": parts, **message}, **(params or {})}}
    status: int = agent_of(sender.pk).post(f"/workspaces/{target.pk}/a2a", body).status_code
    return status


@pytest.mark.parametrize("place", ["message", "params"])
def test_a_reply_that_names_it_completes_it_and_is_delivered(two: Any, doorbell: Any, place: str) -> None:
    caller, callee = two
    first, second = handed(two, doorbell), handed(two, doorbell, "sort the beans")
    named = {"metadata": {"delegation_id": first.pk}}
    assert say(callee, caller, "42 beans", **(named if place == "message" else {"params": named})) == 200
    assert (fresh(first).status, fresh(first).result_preview) == ("completed", "42 beans")
    assert fresh(second).status == "dispatched"
    messages = ActivityLog.objects.filter(workspace_id=caller.pk, method="message/send", source_id=callee.pk)
    assert messages.count() == 1
    assert inbox(caller.pk).count() == 1
    assert told(caller.pk).count("COMPLETE") == 1


def test_a_reply_without_an_id_closes_the_only_open_one(two: Any, doorbell: Any) -> None:
    caller, callee = two
    row = handed(two, doorbell)
    assert say(callee, caller, "what is a bean?") == 200  # a question of its own: no role
    assert fresh(row).status == "dispatched"
    assert say(callee, caller, "42 beans", role="agent") == 200
    assert (fresh(row).status, fresh(row).result_preview) == ("completed", "42 beans")
    assert say(callee, caller, "43 beans", role="agent") == 200
    assert fresh(row).result_preview == "42 beans"
    assert inbox(caller.pk).count() == 1


def test_a_reply_without_an_id_closes_nothing_when_it_may_mean_several(two: Any, doorbell: Any) -> None:
    caller, callee = two
    rows = [handed(two, doorbell), handed(two, doorbell, "sort the beans")]
    assert say(callee, caller, "42 beans", role="agent") == 200
    assert [fresh(row).status for row in rows] == ["dispatched", "dispatched"]
    assert not inbox(caller.pk).exists()


def test_nobody_else_completes_it(two: Any, doorbell: Any) -> None:
    caller, callee = two
    row = handed(two, doorbell)
    named = {"metadata": {"delegation_id": row.pk}, "role": "agent"}
    sibling = WorkspaceFactory(parent=caller.parent, **POLL)
    say(sibling, caller, "mine", **named)
    say(callee, sibling, "to somebody else", **named)
    say(caller, callee, "the other way", **named)
    say(callee, caller, "another id", metadata={"delegation_id": "none-of-ours"})
    assert (fresh(row).status, fresh(row).result_preview) == ("dispatched", None)


def test_replies_at_the_same_time_are_one_end(two: Any, doorbell: Any) -> None:
    caller, callee = two
    row = handed(two, doorbell)
    named = {"metadata": {"delegation_id": row.pk}}
    at_once(*[lambda n=n: say(callee, caller, f"{n} beans", **named) for n in range(5)])
    assert fresh(row).status == "completed"
    assert (inbox(caller.pk).count(), told(caller.pk).count("COMPLETE")) == (1, 1)
