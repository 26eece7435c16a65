"""The picture of the org: where the boxes stand, who may see it, what it costs."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.tree import COLOURS, boxes
from tests.console.conftest import few_queries, login
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import LIVE, Status, Workspace

TREE, DATA = "/console/workspaces/workspace/tree/", "/console/workspaces/workspace/tree/data/"
TREES = st.lists(st.integers(min_value=-1, max_value=30), max_size=40)


@given(parents=TREES)
def test_no_two_boxes_stand_on_one_place_and_parents_stand_above_the_middle(parents: list[int]) -> None:
    ids = [UUID(int=number + 1) for number in range(len(parents))]
    rows = [
        (ids[number], ids[parent % number] if parent >= 0 and number else None, f"n{number}", "online")
        for number, parent in enumerate(parents)
    ]
    found = boxes(rows)
    assert sorted(one.id for one in found) == sorted(ids)
    assert len({(one.x, one.y) for one in found}) == len(found)
    for number, one in enumerate(found):
        children = [other for other in found if other.parent == number]
        assert all(child.y == one.y + 1 for child in children)
        if children:
            assert one.x == (min(child.x for child in children) + max(child.x for child in children)) / 2


def test_a_parent_that_is_gone_makes_a_root_and_a_ring_is_left_out() -> None:
    one, two, three = uuid4(), uuid4(), uuid4()
    found = boxes([(one, uuid4(), "a", "online"), (two, three, "b", "online"), (three, two, "c", "online")])
    assert [(box.id, box.y, box.parent) for box in found] == [(one, 0, -1)]


def test_a_chain_of_ten_thousand_is_laid_out() -> None:
    ids = [UUID(int=number + 1) for number in range(10_000)]
    found = boxes(
        [(one, ids[number - 1] if number else None, "n", "online") for number, one in enumerate(ids)]
    )
    assert found[-1].y == 9_999


def test_every_state_has_a_colour() -> None:
    assert set(COLOURS) == set(LIVE)


@pytest.mark.django_db
def test_it_shows_who_lives_in_few_queries() -> None:
    root = WorkspaceFactory(name="root", status=Status.FAILED, last_sample_error="no image")
    child = WorkspaceFactory(name="child", parent=root)
    WorkspaceFactory(status=Status.REMOVED)
    browser = login("viewer")
    with few_queries():
        told = browser.get(DATA).json()
    assert told["is_cut"] is False
    assert [box[:4] for box in told["boxes"]] == [
        [str(root.pk), "root", "failed", "broken"],
        [str(child.pk), "child", child.status, COLOURS[Status(child.status)]],
    ]
    assert told["boxes"][1][6] == 0
    assert browser.get(TREE).status_code == 200


@pytest.mark.django_db
def test_only_who_may_see_workspaces_sees_it() -> None:
    nobody = login(None)
    assert nobody.get(TREE).status_code == 403
    assert nobody.get(DATA).status_code == 403
    assert Workspace.objects.count() == 0
