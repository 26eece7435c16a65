"""What the store of records is owed: by a purge, while it is away, by several workers at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from config.jobs import Job, conditions
from memory import backends
from memory.models import AgentMemory, KeyValue, OutboxEntry
from memory.services import memories, outbox, records
from memory.services.records import NewRecord
from memory_store.contract import Write
from memory_store.models import MemoryNamespace, MemoryRecord
from provisioning import dispatch
from tests.clients import admin
from tests.conftest import at_once
from tests.memory.conftest import Org
from tests.memory.stub_plugin import StubPlugin
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)
DELETE = OutboxEntry.Op.DELETE_NAMESPACE


@pytest.fixture(autouse=True)
def _no_compute() -> Any:
    dispatch.wire(None)
    yield
    dispatch.choose_again()


def purge(row: Workspace) -> Any:
    return admin().delete(f"/workspaces/{row.pk}?confirm=true&purge=true")


def due_now() -> None:
    OutboxEntry.objects.update(next_attempt_at=timezone.now() - timedelta(seconds=1))


def names() -> set[str]:
    return set(MemoryNamespace.objects.values_list("name", flat=True))


def test_a_purge_takes_the_own_memories_of_everybody_purged(org: Org, wired: None) -> None:
    for row in (org.lead, org.one):
        memories.commit(row, "a fact", "TEAM", surface="test")
        for name in (f"workspace:{row.pk}", f"team:{org.lead.pk}"):
            records.commit(row, NewRecord("a record", name), surface="test")
        KeyValue.objects.create(workspace=row, key="k", value=1)
    assert purge(org.lead).status_code == 200
    assert outbox.deliver() == 3  # the lead and its two children
    assert names() == {f"team:{org.lead.pk}"}
    assert (AgentMemory.objects.count(), KeyValue.objects.count()) == (0, 0)


def test_a_purge_asks_the_plugin_for_nothing_but_the_own_namespaces(org: Org, stub: StubPlugin) -> None:
    stub.fail = (503, b"")
    assert purge(org.lead).status_code == 200
    assert stub.calls == []
    outbox.deliver()
    stub.fail = None
    backends._plugin.cache_clear()  # another process, whose breaker is closed
    due_now()
    assert outbox.deliver() == 3  # a missing namespace is a success
    gone = {path for method, path in stub.calls if method == "DELETE"}
    assert gone == {f"/v1/namespaces/workspace%3A{row.pk}" for row in (org.lead, org.one, org.two)}
    assert not OutboxEntry.objects.exists()


def test_without_a_store_a_purge_owes_nothing(org: Org) -> None:
    assert purge(org.lead).status_code == 200
    assert not OutboxEntry.objects.exists()
    assert conditions[Job.MEMORY_OUTBOX]() is False


def test_a_namespace_that_is_written_again_is_not_deleted_any_more(org: Org, wired: None) -> None:
    name = f"workspace:{org.one.pk}"
    OutboxEntry.objects.create(op=DELETE, namespace=name)
    records.commit(org.one, NewRecord("a record", name), surface="test")
    assert outbox.deliver() == 0
    assert name in names()


def test_it_waits_longer_and_longer_and_is_given_up_after_a_week(stub: StubPlugin) -> None:
    stub.fail = (500, b"")
    OutboxEntry.objects.create(op=DELETE, namespace="workspace:one")
    pauses = []
    for _ in range(9):
        began = timezone.now()
        due_now()
        outbox.deliver()
        entry = OutboxEntry.objects.get()
        pauses.append(round((entry.next_attempt_at - began).total_seconds(), -1))
    assert pauses[:4] == [30, 60, 120, 240]
    assert pauses[-1] == 3600
    OutboxEntry.objects.update(created_at=timezone.now() - outbox.GIVEN_UP_AFTER - timedelta(seconds=1))
    due_now()
    outbox.deliver()
    assert not OutboxEntry.objects.exists()


def test_several_workers_deliver_each_entry_once(stub: StubPlugin) -> None:
    stub.delay_s = 0.01
    entries = [
        outbox.commit_later(
            "workspace:one", Write(f"fact {number}", id=records.same_id("workspace:one", "fact", str(number)))
        )
        for number in range(120)
    ]
    OutboxEntry.objects.bulk_create(entries)
    assert sum(at_once(*[outbox.deliver] * 4)) == 120
    assert len(stub.records) == 120
    assert stub.asked("POST", "/v1/namespaces/workspace%3Aone/memories") == 120


def test_an_entry_whose_worker_died_is_delivered_by_the_next(wired: None) -> None:
    write = Write("mine", id=records.same_id("workspace:one", "fact", "mine"))
    outbox.commit_later("workspace:one", write).save()
    assert len(outbox._claim()) == 1  # and then nothing
    assert outbox.deliver() == 0
    due_now()
    assert outbox.deliver() == 1
    assert MemoryRecord.objects.get().content == "mine"
