"""The database agrees with the code: CHECKs with enumerations, partial indexes with their constants."""

from __future__ import annotations

import re

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, models, transaction

from a2a import models as a2a
from activity.services import INBOX_TYPE
from chat_channels import models as chat_channels
from console.models import Outcome
from delegations import models as delegations
from provisioning.models import OPEN, RunKind, RunState
from schedules.models import Source as ScheduleSource
from uploads.models import Storage
from workspaces.models import ALIVE, Access, DeliveryMode, Status, UrlSource, Workspace
from workspaces.services import creation

pytestmark = pytest.mark.django_db

CHECKS: dict[str, type[models.TextChoices]] = {
    "workspaces_status": Status,
    "workspaces_delivery_mode": DeliveryMode,
    "workspaces_url_source": UrlSource,
    "workspaces_access": Access,
    "provision_runs_kind": RunKind,
    "provision_runs_state": RunState,
    "pending_uploads_storage_check": Storage,
    "a2a_queue_status": a2a.QueueStatus,
    "a2a_queue_caller_kind": a2a.KeptKind,
    "delegations_status": delegations.Status,
    "delegations_source": delegations.Source,
    "delegations_delivery": delegations.Delivery,
    "workspace_schedules_source": ScheduleSource,
    "operator_actions_outcome": Outcome,
    "workspace_channels_type": chat_channels.ChannelType,
    "channel_messages_direction": chat_channels.Direction,
    "channel_messages_status": chat_channels.Status,
}
PREDICATES = {
    "idx_workspaces_heartbeat": set(ALIVE),
    "provision_runs_open": set(OPEN),
    "activity_logs_inbox": {INBOX_TYPE},
    "a2a_queue_active_uniq": set(a2a.ACTIVE),
    "a2a_queue_claim": {a2a.QueueStatus.QUEUED},
    "a2a_queue_expiry": {a2a.QueueStatus.QUEUED},
    "a2a_queue_backoff": {a2a.QueueStatus.QUEUED},
    "a2a_queue_lease": {a2a.QueueStatus.DISPATCHED},
    **{name: set(delegations.IN_FLIGHT) for name in delegations.IN_FLIGHT_INDEXES},
    "channel_messages_open": set(chat_channels.UNFINISHED),
    "idx_workspaces_deadline": {Status.PROVISIONING},
    "workspaces_parent_name_uniq": {Status.REMOVED},
}
OURS = [
    "activity",
    "access",
    "approvals",
    "workspaces",
    "provisioning",
    "uploads",
    "memory",
    "memory_store",
    "a2a",
    "delegations",
    "chat_channels",
    "schedules",
    "console",
]


def definition(query: str, name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(query, [name])
        row = cursor.fetchone()
    assert row, f"{name} is not in the database"
    return str(row[0])


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_lists_exactly_the_enumeration(name: str):
    text = definition("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", name)
    assert set(re.findall(r"'(\w+)'", text)) == set(CHECKS[name].values)


@pytest.mark.parametrize("name", PREDICATES)
def test_a_partial_index_names_exactly_the_constants_of_the_code(name: str):
    text = definition("SELECT indexdef FROM pg_indexes WHERE indexname = %s", name)
    assert set(re.findall(r"'(\w+)'", text.partition(" WHERE ")[2])) == {str(one) for one in PREDICATES[name]}


def test_every_text_enumeration_has_its_check():
    checks = set()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'")
        texts = [row[0] for row in cursor.fetchall()]
    for model in apps.get_models():
        if model._meta.app_label not in OURS:
            continue
        for field in model._meta.get_fields():
            choices = getattr(field, "choices", None)
            if choices:
                values = {value for value, _ in choices}
                matching = [text for text in texts if values == set(re.findall(r"'([\w-]+)'", text))]
                assert matching, f"{model.__name__}.{field.name} has no CHECK of its values"
                checks.add(field.name)
    assert "status" in checks


def test_the_helper_of_many_creations_names_exactly_the_constraint_of_names():
    wanted = "ON CONFLICT (parent_id, name) WHERE status <> 'removed' DO NOTHING"
    assert wanted in creation._INSERT
    text = definition("SELECT indexdef FROM pg_indexes WHERE indexname = %s", "workspaces_parent_name_uniq")
    assert "(parent_id, name) NULLS NOT DISTINCT WHERE" in text
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'workspaces_parent_name_uniq'::regclass"
        )
        assert cursor.fetchone() == (True,)


def test_the_database_itself_refuses_a_second_living_root_of_one_name():
    first = Workspace.objects.create(name="Lead", tier=3)
    with pytest.raises(IntegrityError, match="workspaces_parent_name_uniq"), transaction.atomic():
        Workspace.objects.create(name="Lead", tier=3)
    Workspace.objects.filter(pk=first.pk).update(status=Status.REMOVED)
    second = Workspace.objects.create(name="Lead", tier=3)
    with pytest.raises(IntegrityError, match="workspaces_parent_name_uniq"), transaction.atomic():
        Workspace.objects.filter(pk=first.pk).update(status=Status.ONLINE)
    assert Workspace.objects.live().get() == second


def test_roots_collide_by_name_and_removed_rows_do_not():
    text = definition("SELECT indexdef FROM pg_indexes WHERE indexname = %s", "workspaces_parent_name_uniq")
    assert "UNIQUE" in text
    assert "NULLS NOT DISTINCT" in text
