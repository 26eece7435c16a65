"""DELETE ?purge=true: everything that hangs on the removed workspaces goes in one transaction, or nothing."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import connection, models
from django.utils import timezone

from a2a.models import KeptKind, QueueItem
from access.models import TokenKind, WorkspaceSecret
from access.services import mint_token
from activity.models import InboxDeliveryState, StructureEvent
from activity.services import acknowledge, log_activity
from approvals.models import Approval
from chat_channels.models import Channel
from memory.models import AgentMemory, KeyValue
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import BootBundle, ProvisionRun, WorkspaceLifecycle
from provisioning.services import execution, stops
from schedules.models import Schedule
from templates.models import AllowedPlugin, WorkspaceFile
from tests.clients import admin, agent_of
from tests.conftest import ADMIN_TOKEN, at_once
from tests.outages import statements_fail
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Agent, CanvasLayout, Status, TokenUsage, Workspace, WorkspaceConfig
from workspaces.services import record_usage

pytestmark = pytest.mark.django_db(transaction=True)

STUCK = BackendError(ErrorClass.TRANSIENT, "cannot stop", retryable=True)

# Tables that know a workspace and outlive it, each with its reason. They have no foreign key.
KEPT = {
    "structure_events": "the history of the tree",
    "pending_uploads": "goes with its own expiry, within a day",
    "provision_runs": "the ledger of compute: what was started is never forgotten",
}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryBackend]:
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(stops, "LOCK_WAIT_S", 0.2)
    memory = InMemoryBackend()
    dispatch.wire(memory)
    yield memory
    dispatch.choose_again()


def purge(row: Workspace) -> Any:
    return admin().delete(f"/workspaces/{row.pk}?confirm=true&purge=true")


def lived_in(**fields: Any) -> Workspace:
    """A workspace with a row in every table that hangs on one."""
    row = WorkspaceFactory(**fields)
    CanvasLayout.objects.create(workspace=row, x=1)
    WorkspaceConfig.objects.create(workspace=row)
    WorkspaceFile.objects.create(workspace=row, path="config.yaml", content=b"")
    AllowedPlugin.objects.create(org=row, plugin_name="p", enabled_by="ada")
    Agent.objects.create(workspace=row, model="m")
    record_usage(workspace_id=row.pk, input_tokens=1, output_tokens=1)
    mint_token(workspace_id=row.pk, kind=TokenKind.API)
    WorkspaceSecret.objects.create(workspace=row, key="K", encrypted_value=b"v")
    log_activity(workspace_id=row.pk, activity_type="task_update", announce=False)
    acknowledge(workspace_id=row.pk, seq=1)
    Approval.objects.create(workspace=row, action="deploy")
    KeyValue.objects.create(workspace=row, key="k", value=1)
    AgentMemory.objects.create(workspace=row, content="a fact", scope="LOCAL")
    WorkspaceLifecycle.objects.get_or_create(workspace=row)
    Channel.objects.create(workspace=row, channel_type="telegram")
    Schedule.objects.create(workspace=row, cron_expr="* * * * *", prompt="report")
    QueueItem.objects.create(workspace=row, caller_kind=KeptKind.CANVAS, body={})
    BootBundle.objects.create(
        workspace=row, generation=1, token_hash=row.pk.bytes, sealed="", expires_at=timezone.now()
    )
    return row


def tied() -> dict[str, tuple[type[models.Model], str]]:
    """Every table with a column that names a workspace: its model and the column."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.concrete_fields:
            points = field.is_relation and field.related_model is Workspace and model is not Workspace
            if points or field.attname == "workspace_id":
                found[model._meta.db_table] = (model, field.attname)
    return found


def test_every_table_that_names_a_workspace_is_purged_or_kept_for_a_reason():
    forgotten = []
    for table, (model, attname) in tied().items():
        field = next(one for one in model._meta.concrete_fields if one.attname == attname)
        goes = field.is_relation and field.remote_field.on_delete in {models.CASCADE, models.SET_NULL}
        if not goes and table not in KEPT:
            forgotten.append(table)
    assert not forgotten, "purge them in workspaces/services/purging.py, or list them in KEPT with a reason"
    assert not set(KEPT) - set(tied()), "stale reasons"


def test_a_purge_leaves_no_row_but_the_history(backend):
    root = lived_in()
    leaf = lived_in(parent=lived_in(parent=root))
    stranger = lived_in()
    set_to_null = {table for table, (model, name) in tied().items() if model._meta.get_field(name).null}
    for table, (model, name) in tied().items():
        if table not in KEPT and table not in set_to_null:
            assert model._base_manager.filter(**{name: leaf.pk}).exists(), f"lived_in() makes no {table}"
    answer = purge(root)
    assert (answer.status_code, answer.json()) == (200, {"status": "purged", "cascade_deleted": 2})
    assert list(Workspace.objects.all()) == [stranger]
    for table, (model, name) in tied().items():
        owners = set(model._base_manager.values_list(name, flat=True))
        assert table in KEPT or owners <= {stranger.pk, None}, table
    assert StructureEvent.objects.filter(event_type="WORKSPACE_REMOVED").count() == 3


def test_what_pointed_to_a_purged_workspace_points_nowhere(backend):
    gone = WorkspaceFactory(status=Status.REMOVED)
    child = WorkspaceFactory(parent=gone)
    heir = WorkspaceFactory(status=Status.REMOVED, forwarded_to=gone)
    assert purge(gone).json() == {"status": "purged", "cascade_deleted": 0}
    for row in (child, heir):
        row.refresh_from_db()
    assert (child.parent_id, heir.forwarded_to_id) == (None, None)


def test_an_already_removed_tree_can_be_purged_and_then_is_unknown(backend):
    root = lived_in()
    lived_in(parent=root)
    assert admin().delete(f"/workspaces/{root.pk}?confirm=true").json()["status"] == "removed"
    assert purge(root).json() == {"status": "purged", "cascade_deleted": 1}
    assert purge(root).status_code == 404
    assert admin().get(f"/workspaces/{root.pk}").status_code == 404


def test_a_purge_asks_for_the_same_confirmation(backend):
    root = WorkspaceFactory()
    WorkspaceFactory(parent=root)
    assert admin().delete(f"/workspaces/{root.pk}?purge=true").status_code == 409
    assert agent_of(root.pk).delete(f"/workspaces/{root.pk}?confirm=true&purge=true").status_code == 401
    assert Workspace.objects.live().count() == 2


def test_a_purge_waits_until_the_compute_is_gone(backend):
    root = lived_in()
    child = lived_in(parent=root)
    backend.failures["stop"] = deque([STUCK] * 6)
    answer = purge(root)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "workspace marked removed, but 2 stop call(s) failed — please retry",
        "removed_count": 2,
        "stop_failures": 2,
    }
    assert set(Workspace.objects.values_list("pk", "cleanup_pending")) == {(root.pk, True), (child.pk, True)}
    assert WorkspaceSecret.objects.count() == 2
    assert purge(root).json() == {"status": "purged", "cascade_deleted": 1}


def test_a_purge_waits_for_stops_that_were_not_acknowledged_in_time(backend, monkeypatch):
    """Not refused, only slow: the delete alone would be answered with 200."""
    from provisioning import services

    monkeypatch.setattr(services, "teardown", partial(services.teardown, budget_s=0.1))
    go_on = threading.Event()
    backend.before["stop"] = lambda _: go_on.wait(10)
    row = lived_in()
    answer = purge(row)
    assert (answer.status_code, answer.json()["stop_failures"]) == (500, 1)
    row.refresh_from_db()
    assert (row.status, row.cleanup_pending) == (Status.REMOVED, True)
    go_on.set()
    eventually(lambda: purge(row).status_code in {200, 404})
    assert not Workspace.objects.exists()


def test_a_purge_that_fails_leaves_everything(backend):
    root = lived_in()
    lived_in(parent=root)
    with statements_fail('DELETE FROM "workspaces"'):
        answer = purge(root)
    assert (answer.status_code, answer.json()) == (500, {"error": "purge failed"})
    for model in (Workspace, WorkspaceSecret, Agent, TokenUsage, WorkspaceConfig, InboxDeliveryState):
        assert model._base_manager.count() == 2, model
    assert purge(root).status_code == 200


def test_purges_at_once_agree(backend):
    root = lived_in()
    answers = at_once(*[lambda: purge(root)] * 3)
    assert sorted(answer.status_code for answer in answers)[0] == 200
    assert {answer.status_code for answer in answers} <= {200, 404, 500}
    assert not Workspace.objects.exists() or purge(root).status_code == 200


def test_statements_of_a_purge_do_not_grow_with_the_tree(backend):
    from django.test.utils import CaptureQueriesContext

    from workspaces.services import purge_workspaces

    counts = []
    for size in (1, 10):
        root = lived_in(status=Status.REMOVED)
        for _ in range(size):
            lived_in(status=Status.REMOVED, parent=root)
        with CaptureQueriesContext(connection) as statements:
            assert purge_workspaces(root.pk) == size + 1
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_only_what_is_removed_can_be_purged(backend):
    from config.errors import NotFound
    from workspaces.services import purge_workspaces

    row = lived_in()
    with pytest.raises(NotFound):
        purge_workspaces(row.pk)
    assert Workspace.objects.get().status == Status.ONLINE


def test_a_client_that_hangs_up_cancels_nothing(backend, live_server):
    """The connection is cut while the first stop is under way; everything is still stopped and purged."""
    root = lived_in()
    rows = [root, *(lived_in(parent=root) for _ in range(3))]
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        entered.set()
        go_on.wait(10)

    backend.before["stop"] = slow
    host, port = live_server.thread.host, live_server.thread.port
    with socket.create_connection((host, port)) as client:
        request = (
            f"DELETE /workspaces/{root.pk}?confirm=true&purge=true HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n"
        )
        client.sendall(request.encode())
        assert entered.wait(10)
    go_on.set()
    eventually(lambda: not Workspace.objects.exists())
    assert {call.workspace_id for call in backend.called("remove_storage")} == {row.pk for row in rows}
    assert StructureEvent.objects.filter(event_type="WORKSPACE_REMOVED").count() == 4


def test_an_unknown_workspace_cannot_be_purged(backend):
    assert admin().delete(f"/workspaces/{uuid4()}?purge=true").status_code == 404


def test_the_ledger_of_compute_stays(backend):
    row = lived_in()
    ProvisionRun.objects.create(workspace_id=row.pk, generation=1, kind="create", finished_at=timezone.now())
    assert purge(row).status_code == 200
    assert ProvisionRun.objects.filter(workspace_id=row.pk, kind="create").exists()
