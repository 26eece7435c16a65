"""/workspaces/:id/agent: the model assigned to a workspace."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from activity.events import SEEN_BY_PEERS, EventType
from activity.models import StructureEvent
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Agent, Status, Workspace

pytestmark = pytest.mark.django_db

HAS_ONE = {"error": "workspace already has an active agent, use PATCH to replace"}


def path(row: Workspace, suffix: str = "") -> str:
    return f"/workspaces/{row.pk}/agent{suffix}"


def assigned(row: Workspace, model: str = "opus") -> str:
    return str(admin().post(path(row), {"model": model}).json()["agent_id"])


def events() -> list[tuple[str, Any, Any]]:
    return list(StructureEvent.objects.order_by("seq").values_list("event_type", "workspace_id", "payload"))


def move(source: Workspace, target: Any) -> Any:
    return admin().post(path(source, "/move"), {"target_workspace_id": str(getattr(target, "pk", target))})


def test_an_agent_is_assigned_once():
    row = WorkspaceFactory()
    answer = agent_of(row.pk).post(path(row), {"model": " opus "})
    stored = Agent.objects.get()
    assert (answer.status_code, answer.json()) == (201, {"agent_id": str(stored.pk), "model": "opus"})
    assert (stored.workspace_id, stored.model, stored.status) == (row.pk, "opus", "active")
    again = admin().post(path(row), {"model": "sonnet"})
    assert (again.status_code, again.json()) == (409, HAS_ONE)
    assert events() == [("AGENT_ASSIGNED", row.pk, {"agent_id": str(stored.pk), "model": "opus"})]


@pytest.mark.django_db(transaction=True)
def test_of_two_assignments_at_once_one_wins():
    row = WorkspaceFactory()
    answers = at_once(*[lambda: admin().post(path(row), {"model": "m"})] * 4)
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert Agent.objects.count() == StructureEvent.objects.count() == 1


def test_the_database_refuses_a_second_active_agent():
    row = WorkspaceFactory()
    Agent.objects.create(workspace=row, model="a")
    with pytest.raises(IntegrityError), transaction.atomic():
        Agent.objects.create(workspace=row, model="b")


def test_a_replaced_agent_stays_as_history():
    row = WorkspaceFactory()
    first = assigned(row)
    answer = admin().patch(path(row), {"model": "sonnet"})
    second = Agent.objects.active().get()
    body = {"agent_id": str(second.pk), "model": "sonnet", "old_model": "opus"}
    assert (answer.status_code, answer.json()) == (200, body)
    ended = Agent.objects.get(pk=first)
    assert (ended.status, ended.removal_reason) == ("replaced", "model_replaced")
    assert ended.removed_at is not None
    assert events()[1] == ("AGENT_REPLACED", row.pk, body)


def test_a_replacement_that_fails_leaves_the_old_agent():
    row = WorkspaceFactory()
    first = assigned(row)
    with statements_fail('INSERT INTO "agents"'):
        answer = admin().patch(path(row), {"model": "sonnet"})
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    assert str(Agent.objects.active().get().pk) == first
    assert len(events()) == 1


@pytest.mark.django_db(transaction=True)
def test_replacements_at_once_follow_each_other():
    row = WorkspaceFactory()
    assigned(row)
    answers = at_once(*[lambda: admin().patch(path(row), {"model": "m"})] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert (Agent.objects.active().count(), Agent.objects.count()) == (1, 5)


def test_a_removed_agent_makes_room():
    row = WorkspaceFactory()
    first = assigned(row)
    answer = admin().delete(path(row))
    assert (answer.status_code, answer.json()) == (200, {"status": "removed", "agent_id": first})
    ended = Agent.objects.get()
    assert (ended.status, ended.removal_reason) == ("removed", "manual_removal")
    assert events()[1] == ("AGENT_REMOVED", row.pk, {"agent_id": first, "model": "opus"})
    assert assigned(row) != first


@pytest.mark.django_db(transaction=True)
def test_of_two_removals_at_once_one_wins():
    row = WorkspaceFactory()
    assigned(row)
    answers = at_once(*[lambda: admin().delete(path(row))] * 2)
    assert sorted(answer.status_code for answer in answers) == [200, 404]
    assert [name for name, *_ in events()] == ["AGENT_ASSIGNED", "AGENT_REMOVED"]


def test_where_there_is_no_agent_it_is_said():
    row, other = WorkspaceFactory(), WorkspaceFactory()
    replaced, removed = admin().patch(path(row), {"model": "m"}), admin().delete(path(row))
    assert (replaced.status_code, replaced.json()) == (404, {"error": "no active agent to replace"})
    assert (removed.status_code, removed.json()) == (404, {"error": "no active agent to remove"})
    moved = move(row, other)
    assert (moved.status_code, moved.json()) == (404, {"error": "no active agent in source workspace"})


def test_a_moved_agent_is_told_of_on_both_sides():
    source, target = WorkspaceFactory(), WorkspaceFactory()
    one = assigned(source)
    answer = move(source, target)
    assert answer.status_code == 200
    assert answer.json() == {
        "agent_id": one, "model": "opus", "from_workspace": str(source.pk), "to_workspace": str(target.pk),
    }  # fmt: skip
    assert Agent.objects.get().workspace_id == target.pk
    assert events()[1:] == [
        ("AGENT_MOVED", source.pk, {"agent_id": one, "model": "opus", "target_workspace_id": str(target.pk)}),
        ("AGENT_MOVED", target.pk, {"agent_id": one, "model": "opus", "source_workspace_id": str(source.pk)}),
    ]


def test_an_agent_moves_only_to_where_none_is():
    source, target = WorkspaceFactory(), WorkspaceFactory()
    assigned(source)
    assigned(target)
    for taken in (target, source):
        answer = move(source, taken)
        assert (answer.status_code, answer.json()["error"]) == (
            409,
            "target workspace already has an active agent",
        )
    for nobody in (uuid4(), WorkspaceFactory(status=Status.REMOVED).pk, "nobody"):
        answer = move(source, nobody)
        assert (answer.status_code, answer.json()) == (404, {"error": "target workspace not found"})
    assert len(events()) == 2


@pytest.mark.django_db(transaction=True)
def test_agents_moved_across_each_other_do_not_deadlock():
    for _ in range(10):
        left, right = WorkspaceFactory(), WorkspaceFactory()
        assigned(left)
        assigned(right)
        answers = at_once(lambda: move(left, right), lambda: move(right, left))
        assert [answer.status_code for answer in answers] == [409, 409]


@pytest.mark.django_db(transaction=True)
def test_of_two_agents_moved_to_one_place_one_arrives():
    target, sources = WorkspaceFactory(), WorkspaceFactory.create_batch(2)
    for source in sources:
        assigned(source)
    answers = at_once(lambda: move(sources[0], target), lambda: move(sources[1], target))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert Agent.objects.active().count() == 2


def test_only_an_operator_moves_an_agent():
    source, target = WorkspaceFactory(), WorkspaceFactory()
    assigned(source)
    body = {"target_workspace_id": str(target.pk)}
    refused = agent_of(source.pk).post(path(source, "/move"), body)
    assert (refused.status_code, refused.json()) == (401, {"error": "invalid admin auth token"})
    assert anonymous().post(path(source, "/move"), body).status_code == 401
    assert Agent.objects.get().workspace_id == source.pk


@pytest.mark.parametrize(
    "body", [{}, {"model": ""}, {"model": 7}, {"model": "a\nb"}, {"model": "m" * 101}, []]
)
def test_a_bad_body_is_refused_with_one_text(body):
    row = WorkspaceFactory()
    for answer in (admin().post(path(row), body), admin().patch(path(row), body)):
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})
    answer = admin().post(path(row, "/move"), {})
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_a_removed_or_unknown_workspace_is_not_found():
    for gone in (WorkspaceFactory(status=Status.REMOVED), Workspace(id=uuid4())):
        for answer in (
            admin().post(path(gone), {"model": "m"}),
            admin().patch(path(gone), {"model": "m"}),
            admin().delete(path(gone)),
            move(gone, gone),
        ):
            assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})


@pytest.mark.parametrize("verb", ["assign", "replace", "remove", "move away", "move here"])
@pytest.mark.django_db(transaction=True)
def test_a_workspace_removed_meanwhile_gets_no_agent(verb, monkeypatch):
    """The row was live when the view looked; it is removed before the verb locks it."""
    from workspaces import services

    row, other = WorkspaceFactory(), WorkspaceFactory()
    assigned(other if verb in {"assign", "move here"} else row)
    Workspace.objects.filter(pk=row.pk).update(status=Status.REMOVED)
    calls = {
        "assign": lambda: services.assign_agent(workspace_id=row.pk, model="m"),
        "replace": lambda: services.replace_agent(workspace_id=row.pk, model="m"),
        "remove": lambda: services.remove_agent(workspace_id=row.pk),
        "move away": lambda: services.move_agent(source_id=row.pk, target_id=other.pk),
        "move here": lambda: services.move_agent(source_id=other.pk, target_id=row.pk),
    }
    (outcome,) = at_once(calls[verb])
    assert getattr(outcome, "status", None) == 404
    assert (Agent.objects.count(), len(events())) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_a_delete_closes_the_agent_even_of_an_assignment_at_the_same_time():
    for _ in range(10):
        row = WorkspaceFactory()
        at_once(
            lambda: admin().post(path(row), {"model": "m"}),
            lambda: admin().delete(f"/workspaces/{row.pk}"),
        )
        assert not Agent.objects.active().filter(workspace=row).exists()
    assert not Agent.objects.exclude(removal_reason="manual_removal").exists()


def test_peers_see_what_becomes_of_agents():
    names = {"AGENT_ASSIGNED", "AGENT_REPLACED", "AGENT_REMOVED", "AGENT_MOVED"}
    assert {EventType(name) for name in names} <= SEEN_BY_PEERS
