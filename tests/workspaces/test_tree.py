"""Who may talk to whom."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection

from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace
from workspaces.selectors import can_communicate, paused_ancestor, subtree

pytestmark = pytest.mark.django_db


@pytest.fixture
def org():
    """top -> left(left_leaf), right(right_leaf); other stands alone."""
    top = WorkspaceFactory(name="top")
    left, right = WorkspaceFactory(name="left", parent=top), WorkspaceFactory(name="right", parent=top)
    return {
        "top": top,
        "left": left,
        "right": right,
        "left_leaf": WorkspaceFactory(name="left_leaf", parent=left),
        "right_leaf": WorkspaceFactory(name="right_leaf", parent=right),
        "other": WorkspaceFactory(name="other"),
        "gone": WorkspaceFactory(name="gone", parent=top, status=Status.REMOVED),
    }


@pytest.mark.parametrize(
    ("one", "two", "allowed"),
    [
        ("top", "top", True),
        ("top", "left", True),
        ("top", "left_leaf", True),
        ("left", "right", True),
        ("top", "other", True),
        ("left_leaf", "right_leaf", False),
        ("left_leaf", "right", False),
        ("left", "other", False),
        ("top", "gone", False),
    ],
)
def test_relatives_may_talk_in_both_directions(org, one, two, allowed):
    assert can_communicate(org[one].pk, org[two].pk) is allowed
    assert can_communicate(org[two].pk, org[one].pk) is allowed


def test_roots_are_strangers_where_the_deployment_says_so(org, settings):
    settings.COMM_ROOT_SIBLINGS = "deny"
    assert not can_communicate(org["top"].pk, org["other"].pk)
    assert can_communicate(org["top"].pk, org["left"].pk)


def test_nobody_talks_to_an_unknown_workspace(org):
    assert not can_communicate(org["top"].pk, uuid4())


def test_walks_end_in_damaged_data(org):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workspaces SET parent_id = %s WHERE id = %s", [org["left_leaf"].pk, org["top"].pk]
        )
    assert can_communicate(org["left_leaf"].pk, org["right_leaf"].pk) is False
    assert len(subtree(org["top"].pk)) == len(set(subtree(org["top"].pk)))


def test_a_subtree_lists_parents_before_children(org):
    ids = subtree(org["top"].pk)
    assert ids[0] == org["top"].pk
    assert set(ids[1:3]) == {org["left"].pk, org["right"].pk}
    assert len(ids) == 5


def test_the_nearest_paused_ancestor_is_named(org):
    assert paused_ancestor(org["left_leaf"].pk) is None
    Workspace.objects.filter(name__in=["top", "left"]).update(status=Status.PAUSED)
    assert paused_ancestor(org["left_leaf"].pk) == "left"
