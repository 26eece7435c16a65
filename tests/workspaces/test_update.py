"""PATCH /workspaces/:id."""

from __future__ import annotations

from uuid import uuid4

import pytest

from activity.models import ActivityLog, StructureEvent
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import CanvasLayout, Status, Workspace
from workspaces.selectors import MAX_DEPTH

pytestmark = pytest.mark.django_db


def patch(row, **changes):
    return admin().patch(f"/workspaces/{row.pk}", changes)


def test_a_position_is_one_cheap_write_without_a_trace(published):
    row = WorkspaceFactory()
    assert patch(row, x=10.5, y=-3).json() == {"status": "updated"}
    layout = CanvasLayout.objects.get(pk=row.pk)
    assert (layout.x, layout.y) == (10.5, -3)
    assert not StructureEvent.objects.exists()
    assert not ActivityLog.objects.exists()
    assert published == []


def test_half_a_position_and_unknown_keys_change_nothing():
    row = WorkspaceFactory()
    assert patch(row, x=3, flavour="mint", budget_limit=5).status_code == 200
    assert not CanvasLayout.objects.exists()
    row.refresh_from_db()
    assert row.budget_limit is None


def test_collapsing_hides_and_does_nothing_else():
    row = WorkspaceFactory()
    child = WorkspaceFactory(parent=row)
    patch(row, x=1, y=2)
    patch(row, collapsed=True)
    layout = CanvasLayout.objects.get(pk=row.pk)
    assert (layout.x, layout.y, layout.collapsed) == (1, 2, True)
    child.refresh_from_db()
    assert child.status == Status.ONLINE
    assert not StructureEvent.objects.exists()


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"name": "x" * 256}, 400, "name must be at most 255 characters"),
        ({"name": "a\nb"}, 400, "name must not contain newline characters"),
        ({"name": "a|b"}, 400, "name contains invalid characters"),
        ({"role": "a{b"}, 400, "role contains invalid characters"),
        ({"name": 5}, 400, "invalid request body"),
        ({"x": "left", "y": 1}, 400, "invalid request body"),
        ({"collapsed": "yes"}, 400, "invalid request body"),
        ({"tier": 5}, 400, "tier must be between 1 and 4"),
        ({"workspace_dir": "/etc"}, 400, "invalid workspace directory"),
        ({"workspace_access": "read_write"}, 400, "invalid workspace access"),
        ({"runtime": "cobol"}, 422, "unsupported workspace runtime"),
    ],
)
def test_bad_values_are_named_and_nothing_is_written(changes, status, text):
    row = WorkspaceFactory(name="before")
    answer = patch(row, **{"role": "new", **changes})
    assert (answer.status_code, answer.json()["error"]) == (status, text)
    row.refresh_from_db()
    assert (row.name, row.role) == ("before", None)


def test_an_agent_may_rename_itself_but_not_promote_itself():
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    assert agent.patch(f"/workspaces/{row.pk}", {"name": "Ada"}).status_code == 200
    refused = agent.patch(f"/workspaces/{row.pk}", {"tier": 4, "name": "Eve"})
    assert refused.status_code == 403
    assert refused.json()["code"] == "WORKSPACE_INFRASTRUCTURE_AUTH_REQUIRED"
    assert refused.json()["fields"] == ["tier"]
    row.refresh_from_db()
    assert (row.name, row.tier) == ("Ada", 3)


def test_infrastructure_changes_say_that_a_restart_is_needed():
    row = WorkspaceFactory()
    assert patch(row, tier=4).json() == {"status": "updated", "needs_restart": True}
    assert patch(row, tier=4).json() == {"status": "updated"}


def test_a_taken_name_is_a_conflict_and_unknown_and_removed_rows_are_told_apart():
    WorkspaceFactory(name="taken")
    row = WorkspaceFactory()
    answer = patch(row, name="taken")
    assert (answer.status_code, answer.json()["code"]) == (409, "WORKSPACE_NAME_TAKEN")
    assert admin().patch(f"/workspaces/{uuid4()}", {"name": "x"}).status_code == 404
    assert patch(WorkspaceFactory(status=Status.REMOVED), name="x").status_code == 410


def test_a_workspace_moves_into_a_team_and_out_again():
    row, team = WorkspaceFactory(), WorkspaceFactory()
    assert patch(row, parent_id=str(team.pk)).json() == {"status": "updated", "needs_restart": True}
    row.refresh_from_db()
    assert row.parent_id == team.pk
    patch(row, parent_id=None)
    row.refresh_from_db()
    assert row.parent_id is None
    moves = (
        StructureEvent.objects.filter(event_type="WORKSPACE_MOVED")
        .order_by("seq")
        .values_list("payload", flat=True)
    )
    assert list(moves) == [
        {"old_parent_id": None, "new_parent_id": str(team.pk)},
        {"old_parent_id": str(team.pk), "new_parent_id": None},
    ]


def test_no_workspace_becomes_its_own_ancestor():
    top = WorkspaceFactory()
    middle = WorkspaceFactory(parent=top)
    leaf = WorkspaceFactory(parent=middle)
    for target in (top, leaf):
        answer = patch(top, parent_id=str(target.pk))
        assert (answer.status_code, answer.json()["code"]) == (409, "WORKSPACE_PARENT_CYCLE")
    for nobody in (uuid4(), WorkspaceFactory(status=Status.REMOVED).pk):
        assert patch(leaf, parent_id=str(nobody)).json() == {"error": "parent workspace not found"}
    leaf.refresh_from_db()
    assert leaf.parent_id == middle.pk


@pytest.mark.django_db(transaction=True)
def test_two_disjoint_moves_at_once_never_form_a_cycle():
    for _ in range(10):
        a1, b1 = WorkspaceFactory(), WorkspaceFactory()
        a2, b2 = WorkspaceFactory(parent=a1), WorkspaceFactory(parent=b1)
        outcomes = at_once(lambda: patch(a1, parent_id=str(b2.pk)), lambda: patch(b1, parent_id=str(a2.pk)))
        assert sorted(answer.status_code for answer in outcomes) == [200, 409]
        parents = dict(Workspace.objects.values_list("pk", "parent_id"))
        assert not (parents[a1.pk] == b2.pk and parents[b1.pk] == a2.pk)


def line_of(length: int) -> list[Workspace]:
    """A tree without branches, `length` levels deep."""
    rows = [WorkspaceFactory()]
    while len(rows) < length:
        rows.append(WorkspaceFactory(parent=rows[-1]))
    return rows


def test_a_tree_is_never_deeper_than_its_walks_go():
    line = line_of(MAX_DEPTH)
    answer = admin().post("/workspaces", {"name": "one too deep", "parent_id": str(line[-1].pk)})
    assert (answer.status_code, answer.json()["code"]) == (409, "WORKSPACE_TREE_TOO_DEEP")
    pair = line_of(2)
    assert patch(pair[0], parent_id=str(line[-2].pk)).json()["code"] == "WORKSPACE_TREE_TOO_DEEP"
    assert patch(pair[0], parent_id=str(line[-3].pk)).status_code == 200
    assert patch(line[0], parent_id=str(pair[1].pk)).json()["code"] == "WORKSPACE_PARENT_CYCLE"
    assert admin().delete(f"/workspaces/{line[0].pk}?confirm=true").json()["cascade_deleted"] == MAX_DEPTH + 1
    assert not Workspace.objects.live().exists()


@pytest.mark.parametrize(("before", "after"), [("langgraph", "external"), ("external", "hermes")])
def test_compute_of_ours_does_not_become_somebody_elses(before, after):
    row = WorkspaceFactory(runtime=before)
    answer = patch(row, runtime=after)
    assert (answer.status_code, answer.json()["code"]) == (409, "WORKSPACE_RUNTIME_FIXED")
    row.refresh_from_db()
    assert row.runtime == before


def test_an_empty_parent_is_no_parent_and_moves_nothing():
    row = WorkspaceFactory(parent=WorkspaceFactory())
    assert patch(row, parent_id="").json() == {"error": "parent workspace not found"}
    row.refresh_from_db()
    assert row.parent_id is not None
