from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection

from config.states import StateMachine, update_returning
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import STATES, Status, Workspace


@pytest.mark.django_db
def test_a_legal_move_returns_the_row_as_now_stored() -> None:
    row = WorkspaceFactory(status=Status.ONLINE)
    before = row.status_changed_at
    (moved,) = STATES.move(Workspace.objects.filter(pk=row.pk), Status.PAUSED, current_task=None)
    assert moved.status == Status.PAUSED
    assert before is None or moved.status_changed_at >= before
    assert Workspace.objects.get(pk=row.pk).status == Status.PAUSED


@pytest.mark.django_db
def test_an_illegal_move_changes_nothing_and_returns_nothing() -> None:
    row = WorkspaceFactory(status=Status.REMOVED)
    assert STATES.move(Workspace.objects.filter(pk=row.pk), Status.ONLINE) == []
    assert Workspace.objects.get(pk=row.pk).status == Status.REMOVED


@pytest.mark.django_db
def test_only_the_named_rows_move() -> None:
    one, other = WorkspaceFactory(), WorkspaceFactory()
    assert [row.pk for row in STATES.move(Workspace.objects.filter(pk=one.pk), Status.OFFLINE)] == [one.pk]
    assert Workspace.objects.get(pk=other.pk).status == Status.ONLINE


@pytest.mark.django_db
@pytest.mark.parametrize(
    "rows",
    [
        lambda: Workspace.objects.filter(parent__name="x"),
        lambda: Workspace.objects.filter(status="online")[:1],
    ],
    ids=["joined", "sliced"],
)
def test_a_guard_that_postgresql_would_not_recheck_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="join"):
        update_returning(rows(), status="paused")


@pytest.mark.django_db(transaction=True)
def test_of_many_simultaneous_moves_exactly_one_wins() -> None:
    row = WorkspaceFactory(status=Status.ONLINE)
    machine = StateMachine({Status.PAUSED: {Status.ONLINE}})

    def move() -> Any:
        return machine.move(Workspace.objects.filter(pk=row.pk), Status.PAUSED)

    outcomes = at_once(*[move] * 8)
    assert sorted(len(outcome) for outcome in outcomes) == [0] * 7 + [1]


@pytest.fixture
def newer_release() -> Iterator[Callable[[], None]]:
    """Adds a column from another connection, as the next release's migration does; dropped afterwards."""
    params = {**connection.get_connection_params(), "autocommit": True}
    with psycopg.connect(**params) as other:
        yield lambda: other.execute("ALTER TABLE workspaces ADD COLUMN of_tomorrow int")  # type: ignore[func-returns-value]
        connection.close()
        other.execute("ALTER TABLE workspaces DROP COLUMN IF EXISTS of_tomorrow")


@pytest.mark.django_db(transaction=True)
def test_a_prepared_move_survives_a_column_of_the_next_release(
    newer_release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = WorkspaceFactory(status=Status.ONLINE)
    connection.ensure_connection()
    monkeypatch.setattr(connection.connection, "prepare_threshold", 0)  # it goes back to the pool
    rows = Workspace.objects.filter(pk=row.pk)
    assert update_returning(rows, status=Status.PAUSED)
    newer_release()
    assert update_returning(rows, status=Status.PAUSED)
