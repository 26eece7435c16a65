"""DELETE /workspaces/:id: the rows go first, the stops follow and are owed until they are acknowledged."""

from __future__ import annotations

from uuid import uuid4

import pytest

from access.models import WorkspaceAuthToken
from activity.models import StructureEvent
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.memory import InMemoryBackend
from tests.clients import admin, agent_of, anonymous
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import CanvasLayout, Status, Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def tree():
    root = WorkspaceFactory(name="root")
    child = WorkspaceFactory(name="child", parent=root)
    leaf = WorkspaceFactory(name="leaf", parent=child)
    CanvasLayout.objects.create(workspace=leaf, x=1, y=1)
    return root, child, leaf


def test_a_parent_is_not_deleted_by_accident(tree):
    root, child, _ = tree
    answer = admin().delete(f"/workspaces/{root.pk}")
    assert answer.status_code == 409
    body = answer.json()
    assert (body["status"], body["children_count"]) == ("confirmation_required", 1)
    assert body["children"] == [{"id": str(child.pk), "name": "child"}]
    assert Workspace.objects.live().count() == 3


def test_a_confirmed_delete_takes_the_whole_subtree(tree):
    root, child, leaf = tree
    agent = agent_of(leaf.pk)
    answer = admin().delete(f"/workspaces/{root.pk}?confirm=true")
    assert (answer.status_code, answer.json()) == (200, {"status": "removed", "cascade_deleted": 2})
    assert not Workspace.objects.live().exists()
    assert not CanvasLayout.objects.exists()
    assert not WorkspaceAuthToken.objects.live().exists()
    assert agent.get(f"/workspaces/{leaf.pk}/activity").status_code == 401
    events = StructureEvent.objects.filter(event_type="WORKSPACE_REMOVED").order_by("seq")
    assert [event.workspace_id for event in events] == [leaf.pk, child.pk, root.pk]
    assert [event.payload for event in events] == [{}, {}, {"cascade_deleted": 2}]


def test_a_leaf_needs_no_confirmation_and_an_unknown_id_is_not_found(tree):
    assert admin().delete(f"/workspaces/{tree[2].pk}").json() == {"status": "removed", "cascade_deleted": 0}
    assert admin().delete(f"/workspaces/{uuid4()}").status_code == 404
    assert anonymous().delete(f"/workspaces/{tree[0].pk}").status_code == 401


@pytest.mark.django_db(transaction=True)
def test_a_stop_that_fails_is_reported_owed_and_driven_again(tree, monkeypatch):
    backend = InMemoryBackend()
    dispatch.wire(backend)
    monkeypatch.setattr("provisioning.services.execution.STOP_PAUSES_S", (0.0, 0.0))
    try:
        root, _, leaf = tree
        broken = [leaf.pk]

        def refuse(workspace_id):
            if workspace_id in broken:
                raise BackendError(ErrorClass.TRANSIENT, "the engine does not answer")

        backend.before["stop"] = refuse
        answer = admin().delete(f"/workspaces/{root.pk}?confirm=true")
        assert answer.status_code == 500
        assert (answer.json()["removed_count"], answer.json()["stop_failures"]) == (3, 1)
        assert list(Workspace.objects.filter(cleanup_pending=True)) == [leaf]
        broken.clear()
        again = admin().delete(f"/workspaces/{root.pk}")
        assert (again.status_code, again.json()) == (200, {"status": "removed", "cascade_deleted": 0})
        assert not Workspace.objects.filter(cleanup_pending=True).exists()
    finally:
        dispatch.choose_again()


def test_nothing_revives_a_deleted_workspace():
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    admin().delete(f"/workspaces/{row.pk}")
    before = StructureEvent.objects.count()
    state = agent.get(f"/workspaces/{row.pk}/state")
    assert (state.status_code, state.json()["deleted"]) == (404, True)
    beat = agent.post("/registry/heartbeat", {"workspace_id": str(row.pk)})
    assert (beat.status_code, beat.json()["code"]) == (401, "workspace_removed")
    assert agent.post("/registry/register", {"id": str(row.pk), "agent_card": {}}).status_code == 410
    assert admin().post(f"/workspaces/{row.pk}/restart").status_code == 404
    assert (StructureEvent.objects.count(), WorkspaceAuthToken.objects.live().count()) == (before, 0)
    row.refresh_from_db()
    assert row.status == Status.REMOVED
