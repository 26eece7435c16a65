"""The table of states against the documented moves, and the moves against a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import STATES, Status, Workspace
from workspaces.services import transitions

S = Status
LIVE = set(Status) - {S.REMOVED}

# docs/reference/workspaces.md, Status: what may become what.
DOCUMENTED = {
    S.PROVISIONING: LIVE,
    S.ONLINE: {
        S.PROVISIONING, S.ONLINE, S.DEGRADED, S.OFFLINE, S.FAILED, S.AWAITING_AGENT, S.PAUSED, S.HIBERNATING
    },
    S.DEGRADED: {S.ONLINE, S.PROVISIONING, S.PAUSED, S.HIBERNATING},
    S.OFFLINE: {S.ONLINE, S.DEGRADED, S.PROVISIONING, S.PAUSED},
    S.FAILED: {S.PROVISIONING, S.OFFLINE, S.PAUSED},
    S.AWAITING_AGENT: {S.ONLINE, S.DEGRADED, S.PAUSED},
    S.PAUSED: LIVE - {S.PAUSED},
    S.HIBERNATING: {S.ONLINE, S.DEGRADED, S.PAUSED},
    S.HIBERNATED: {S.HIBERNATING, S.PAUSED},
    S.REMOVED: LIVE,
}  # fmt: skip


@pytest.mark.parametrize("target", Status)
def test_the_table_of_moves_is_the_documented_one(target):
    assert set(STATES.sources[target]) == DOCUMENTED[target]


def test_nothing_leaves_removed():
    assert all(S.REMOVED not in sources for sources in STATES.sources.values())


# What each verb may do to a row: {from: to}. A verb that is not listed for a status must change nothing.
VERBS: dict[str, tuple[Callable[[Workspace], object], dict[Status, Status]]] = {
    "claim_provisioning": (
        lambda row: transitions.claim_provisioning(row.pk),
        dict.fromkeys(LIVE, S.PROVISIONING),
    ),
    "wake": (
        lambda row: transitions.claim_provisioning(row.pk, leaving={S.HIBERNATED}),
        {S.HIBERNATED: S.PROVISIONING},
    ),
    "mark_failed": (
        lambda row: transitions.mark_failed(_fenced(row), "reason"),
        {S.PROVISIONING: S.FAILED},
    ),
    "mark_lost": (
        lambda row: transitions.mark_lost(_fenced(row)),
        {S.ONLINE: S.OFFLINE, S.DEGRADED: S.OFFLINE},
    ),
    "decline_restart": (
        lambda row: transitions.decline_restart(
            row.pk, row.generation, prior=S.ONLINE, error="e", reason="r"
        ),
        {S.PROVISIONING: S.ONLINE},
    ),
    "claim_pause": (lambda row: transitions.claim_pause(row.pk), dict.fromkeys(LIVE - {S.PAUSED}, S.PAUSED)),
    "confirm_pause": (lambda row: transitions.confirm_pause(row.pk, row.generation), {}),
    "claim_hibernation": (
        lambda row: transitions.claim_hibernation(Workspace.objects.filter(pk=row.pk, active_tasks=0)),
        {S.ONLINE: S.HIBERNATING, S.DEGRADED: S.HIBERNATING},
    ),
    "confirm_hibernation": (
        lambda row: transitions.confirm_hibernation(row.pk, row.generation),
        {S.HIBERNATING: S.HIBERNATED},
    ),
    "mark_away": (lambda row: transitions.mark_away(_fenced(row)), {}),  # the row is managed
}
CLAIMS = {"claim_provisioning", "wake", "claim_pause", "claim_hibernation"}


def _fenced(row: Workspace):
    return Workspace.objects.at(row.pk, row.generation)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_moves_what_it_may_and_nothing_else(valkey, verb, status):
    act, moves = VERBS[verb]
    row = WorkspaceFactory(status=status, last_sample_error="before")
    row.refresh_from_db()
    act(row)
    after = Workspace.objects.get(pk=row.pk)
    assert after.status == moves.get(status, status)
    assert after.generation == row.generation + (status in moves and verb in CLAIMS)
    assert (after.status_changed_at != row.status_changed_at) == (after.status != status)


@pytest.mark.django_db
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(VERBS)), max_size=12))
def test_any_sequence_of_verbs_follows_the_model(verbs):
    row = WorkspaceFactory(status=Status.ONLINE)
    expected, generation = Status.ONLINE, row.generation
    for verb in verbs:
        act, moves = VERBS[verb]
        row.refresh_from_db()
        act(row)
        generation += expected in moves and verb in CLAIMS
        expected = moves.get(expected, expected)
        row.refresh_from_db()
        assert (row.status, row.generation) == (expected, generation)
    row.delete()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("prior", sorted(LIVE - {S.PAUSED}))
def test_a_reverted_pause_returns_the_row_and_keeps_the_raised_generation(valkey, prior):
    row = WorkspaceFactory(status=prior, last_sample_error="before")
    claim = transitions.claim_pause(row.pk)
    assert claim
    assert transitions.revert_claim(claim)
    after = Workspace.objects.get(pk=row.pk)
    assert (after.status, after.generation) == (prior, row.generation + 1)


@pytest.mark.django_db(transaction=True)
def test_a_claim_that_somebody_overtook_is_not_reverted(valkey):
    claim = transitions.claim_pause(WorkspaceFactory().pk)
    assert claim
    transitions.claim_provisioning(claim.workspace.pk, leaving={S.PAUSED})
    assert transitions.revert_claim(claim) is None
    assert Workspace.objects.get(pk=claim.workspace.pk).status == S.PROVISIONING
