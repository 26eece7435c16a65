"""Whose memories a workspace reads and writes, against random trees and broken ones."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from config.errors import NotFound
from memory.namespaces import MAX_HOPS, reach_of
from tests.memory.conftest import Org
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def seen(row: Workspace) -> list[tuple[str, bool]]:
    return [(one.name, one.is_writable) for one in reach_of(row.pk).places]


def test_a_root_a_lead_and_a_member(org: Org) -> None:
    root, lead, one = org.root, org.lead, org.one
    assert seen(root) == [(f"workspace:{root.pk}", True), (f"team:{root.pk}", True), (f"org:{root.pk}", True)]
    assert seen(lead) == [
        (f"workspace:{lead.pk}", True),
        (f"team:{root.pk}", True),
        (f"team:{lead.pk}", True),
        (f"org:{root.pk}", False),
    ]
    assert seen(one) == [(f"workspace:{one.pk}", True), (f"team:{lead.pk}", True), (f"org:{root.pk}", False)]
    assert [place.display_name for place in reach_of(one.pk).places] == ["one", "lead", "root"]


def test_a_lead_whose_children_are_all_removed_leads_nobody(org: Org) -> None:
    Workspace.objects.filter(parent=org.lead).update(status=Status.REMOVED)
    assert f"team:{org.lead.pk}" not in reach_of(org.lead.pk).readable


def test_what_is_asked_for_is_cut_to_what_may_be_read(org: Org) -> None:
    reach = reach_of(org.one.pk)
    own, team, root = reach.readable
    assert reach.intersect_readable([]) == [own, team, root]
    assert reach.intersect_readable([root, f"team:{org.other.pk}", own, root, "x"]) == [root, own]
    assert reach.intersect_readable([f"workspace:{org.two.pk}"]) == []
    assert not reach.can_write(root)
    assert not reach.can_write(f"{own}\n")


def test_an_unknown_workspace_has_none(db: None) -> None:
    with pytest.raises(NotFound, match="workspace not found"):
        reach_of(uuid4())


def test_a_ring_of_parents_leaves_only_the_own(org: Org) -> None:
    Workspace.objects.filter(pk=org.lead.pk).update(parent=org.one)
    began = time.monotonic()
    assert seen(org.one) == [(f"workspace:{org.one.pk}", True)]
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(("hops", "places"), [(MAX_HOPS, 3), (MAX_HOPS + 1, 1)])
def test_a_chain_too_long_leaves_only_the_own(db: None, hops: int, places: int) -> None:
    row = None
    for _ in range(hops + 1):
        row = WorkspaceFactory(parent=row)
    assert row is not None
    assert len(seen(row)) == places


def test_a_move_counts_from_the_next_call_on(org: Org) -> None:
    Workspace.objects.filter(pk=org.one.pk).update(parent=org.other)
    assert f"team:{org.lead.pk}" not in reach_of(org.one.pk).readable
    assert reach_of(org.one.pk).can_write(f"team:{org.other.pk}")


TREES = st.lists(st.integers(min_value=-1, max_value=11), min_size=1, max_size=12)
GONE = st.sets(st.integers(min_value=0, max_value=11))


@effort(max_examples=60, deadline=None)
@given(parents=TREES, gone=GONE)
def test_nobody_reaches_what_is_not_its_own_its_teams_or_its_orgs(parents: list[int], gone: set[int]) -> None:
    """Any tree: the parent of a row is an earlier one, or none."""
    Workspace.objects.all().delete()
    rows: list[Workspace] = []
    for number, parent in enumerate(parents):
        above = rows[parent % number] if parent >= 0 and number else None
        status = Status.REMOVED if number in gone else Status.ONLINE
        rows.append(WorkspaceFactory(name=f"n{number}", parent=above, status=status))
    by_id = {row.pk: row for row in rows}
    for row in rows:
        root = row
        while root.parent_id:
            root = by_id[root.parent_id]
        leads = {row.parent_id or row.pk}
        if any(child.parent_id == row.pk and child.status != Status.REMOVED for child in rows):
            leads.add(row.pk)
        reach = reach_of(row.pk)
        assert set(reach.readable) == {
            f"workspace:{row.pk}",
            *(f"team:{lead}" for lead in leads),
            f"org:{root.pk}",
        }
        assert set(reach.readable) - set(reach.writable) == ({f"org:{root.pk}"} if root != row else set())
        foreign = [f"workspace:{other.pk}" for other in rows if other != row]
        assert reach.intersect_readable([*foreign, f"workspace:{uuid4()}"]) == []
