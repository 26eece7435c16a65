"""The table of states: every listed move is possible, nothing else is, and every change is counted."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F

from activity.models import MetricCounter
from activity.tally import tally
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import STATES, Status, Workspace
from workspaces.services import transitions
from workspaces.services.moves import TRANSITIONS, move

ONE_PLACE = "workspaces/services/moves.py"
SETS_STATUS = re.compile(r"(?is)UPDATE\s+workspaces\b(?:(?!\bWHERE\b).)*\bstatus\s*=")


def stored(status: Status) -> Workspace:
    row = WorkspaceFactory(status=status, last_sample_error="before")
    row.refresh_from_db()
    return row


@pytest.mark.django_db
@pytest.mark.parametrize("target", Status)
@pytest.mark.parametrize("source", Status)
def test_a_row_moves_exactly_where_the_table_says(source, target):
    row = stored(source)
    moved = move(Workspace.objects.filter(pk=row.pk), target, trigger="test")
    after = Workspace.objects.get(pk=row.pk)
    is_legal = source in STATES.sources[target]
    assert [(one.row.pk, one.prior) for one in moved] == ([(row.pk, source)] if is_legal else [])
    assert after.status == (target if is_legal else source)
    assert (after.status_changed_at != row.status_changed_at) == (after.status != source)


@pytest.mark.django_db
def test_the_database_knows_exactly_the_statuses_of_the_code():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'workspaces_status'"
        )
        (definition,) = cursor.fetchone()
    assert set(re.findall(r"'([a-z_]+)'", definition)) == set(Status.values)
    assert set(STATES.sources) == set(Status)
    assert all(sources <= set(Status) for sources in STATES.sources.values())


def test_a_removed_row_goes_nowhere_and_a_parked_one_only_by_hand():
    assert not any(Status.REMOVED in sources for sources in STATES.sources.values())
    with_hands = {Status.PROVISIONING, Status.PAUSED, Status.REMOVED}
    for target in set(Status) - with_hands:
        assert Status.HIBERNATED not in STATES.sources[target] or target == Status.HIBERNATED


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("uncounted", "valkey")
def test_of_many_movers_one_wins_and_one_change_is_counted():
    row = stored(Status.ONLINE)
    rows = Workspace.objects.filter(pk=row.pk, status=Status.ONLINE)
    outcomes = at_once(*[lambda: move(rows.all(), Status.OFFLINE, trigger="test")] * 8)
    assert sorted(len(outcome) for outcome in outcomes) == [0] * 7 + [1]
    assert counted() == {'from="online",to="offline",trigger="test"': 1}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("valkey")
def test_a_callers_guard_holds_when_the_row_changes_under_its_eyes():
    """`provisioning` may follow itself: only the guard on the generation tells the first from the others."""
    row = stored(Status.PROVISIONING)

    def claim() -> Any:
        here = Workspace.objects.at(row.pk, row.generation)
        return move(here, Status.PROVISIONING, trigger="test", generation=F("generation") + 1)

    outcomes = at_once(*[claim] * 8)
    assert sorted(len(outcome) for outcome in outcomes) == [0] * 7 + [1]
    assert Workspace.objects.get(pk=row.pk).generation == row.generation + 1


# --- Counting


def counted() -> dict[str, int]:
    tally.flush()
    rows = MetricCounter.objects.filter(name=TRANSITIONS)
    return {row.labels: row.value for row in rows}


@pytest.fixture
def uncounted() -> None:
    tally.forget()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("uncounted", "valkey")
def test_every_way_a_status_changes_is_counted_by_its_cause():
    created = admin().post("/workspaces", {"name": "A"}).json()["id"]  # without a backend it fails at once
    external = admin().post("/workspaces", {"name": "B", "external": True}).json()
    agent = agent_of(external["id"])
    agent.post("/registry/register", {"id": external["id"], "agent_card": {}, "delivery_mode": "poll"})
    agent.post("/registry/heartbeat", {"workspace_id": external["id"], "error_rate": 0.9})
    transitions.mark_away(Workspace.objects.filter(pk=external["id"]))
    admin().post(f"/workspaces/{external['id']}/pause")
    admin().post(f"/workspaces/{external['id']}/resume")
    admin().delete(f"/workspaces/{created}")
    changes = {tuple(re.findall(r'"([^"]*)"', labels)): value for labels, value in counted().items()}
    assert changes == {
        ("none", "provisioning", "create"): 1,
        ("provisioning", "failed", "provision"): 1,
        ("none", "awaiting_agent", "create"): 1,
        ("awaiting_agent", "online", "register"): 1,
        ("online", "degraded", "heartbeat"): 1,
        ("degraded", "awaiting_agent", "lost"): 1,
        ("awaiting_agent", "paused", "pause"): 1,
        ("paused", "awaiting_agent", "resume"): 1,
        ("failed", "removed", "delete"): 1,
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("uncounted", "valkey")
def test_what_is_rolled_back_or_changes_nothing_is_not_counted():
    row = stored(Status.ONLINE)
    agent = agent_of(row.pk)
    agent.post("/registry/register", {"id": str(row.pk), "agent_card": {}, "url": "https://8.8.8.8"})
    transitions.claim_provisioning(row.pk)
    transitions.claim_provisioning(row.pk)  # a second restart: still provisioning
    assert counted() == {'from="online",to="provisioning",trigger="restart"': 1}


@pytest.mark.django_db
def test_the_gauge_shows_every_status_from_the_start():
    WorkspaceFactory.create_batch(2, status=Status.PAUSED)
    text = admin().get("/metrics").content.decode()
    shown = dict(re.findall(r'^molecule_workspaces\{status="(\w+)"\} (\d+)$', text, re.MULTILINE))
    assert shown == {status: "2" if status == Status.PAUSED else "0" for status in Status.values}
    assert "# TYPE molecule_workspaces gauge" in text


# --- One place


def writes_of_status(source: str) -> list[int]:
    """Lines that change a workspace's status by themselves: an update with `status=`, or SQL that sets it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_call = isinstance(node, ast.Call) and _changes_status(node)
        is_sql = isinstance(node, ast.Constant) and SETS_STATUS.search(str(node.value))
        if is_call or is_sql:
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def _changes_status(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    names = {keyword.arg for keyword in call.keywords}
    on_states = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "STATES"
    return (name in {"update", "update_returning"} and "status" in names) or (name == "move" and on_states)


@pytest.mark.parametrize(
    "line",
    [
        "Workspace.objects.filter(pk=1).update(status='online')",
        "update_returning(rows, status=target)",
        "STATES.move(rows, target)",
        "cursor.execute('UPDATE workspaces SET uptime_seconds = 0, status = %s WHERE id = %s')",
    ],
)
def test_the_gate_finds_a_second_place(line):
    assert writes_of_status(line) == [1]


def test_the_status_is_written_in_one_place():
    root = Path(settings.BASE_DIR)
    files = [*(root / "workspaces").rglob("*.py"), *(root / "provisioning").rglob("*.py")]
    sources: dict[str, Any] = {str(path.relative_to(root)): path.read_text() for path in files}
    writing = {name for name, text in sources.items() if "Workspace" in text and writes_of_status(text)}
    # Rows of their own tables with a status of their own.
    assert writing - {"workspaces/services/agents.py", "provisioning/progress.py"} == {ONE_PLACE}
