"""`manage.py memory_backfill`: copied once however often, and compared."""

from __future__ import annotations

import threading
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from memory.models import AgentMemory
from memory.services import backfill, scoped
from memory_store.models import MemoryRecord
from tests.memory.conftest import Org
from tests.memory.stub_plugin import StubPlugin
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def run(*words: str) -> tuple[int, str]:
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("memory_backfill", *words, stdout=out, stderr=out)
    return int(ended.value.code or 0), out.getvalue()


@pytest.fixture
def remembered(org: Org) -> Org:
    scoped.commit(org.root.pk, "for all", "GLOBAL", "facts")
    scoped.commit(org.one.pk, "for the team", "TEAM", "general")
    scoped.commit(org.one.pk, "mine", "LOCAL", "general")
    scoped.commit(org.one.pk, "mine", "LOCAL", "general")
    return org


@pytest.mark.parametrize("words", [(), ("--apply", "--verify"), ("--dry-run", "--apply")], ids=str)
def test_one_mode_is_needed(words: tuple[str, ...], wired: None) -> None:
    assert run(*words) == (2, "specify exactly one of --dry-run, --apply, or --verify\n")


def test_a_store_is_needed(db: None) -> None:
    assert run("--apply") == (2, "MEMORY_PLUGIN_URL is not set\n")


def test_it_copies_once_however_often(remembered: Org, wired: None) -> None:
    status, told = run("--dry-run")
    assert (status, MemoryRecord.objects.count()) == (0, 0)
    assert f"team:{remembered.lead.pk}: 1" in told
    for _ in range(2):
        status, told = run("--apply")
        assert status == 0
        assert told.endswith("Backfill complete: scanned=4 copied=4 skipped=0 errors=0\n")
    kept = {
        (row.namespace_id, row.content, row.propagation["tag"], str(row.pk))
        for row in MemoryRecord.objects.all()
    }
    homes = {"GLOBAL": f"org:{remembered.root.pk}", "TEAM": f"team:{remembered.lead.pk}"}
    assert kept == {
        (homes.get(row.scope, f"workspace:{row.workspace_id}"), row.content, row.namespace, str(row.pk))
        for row in AgentMemory.objects.all()
    }
    moments = dict(AgentMemory.objects.values_list("pk", "created_at"))
    assert dict(MemoryRecord.objects.values_list("pk", "created_at")) == moments
    assert run("--verify")[0] == 0


def test_a_hundred_and_fifty_rows_are_compared_and_one_that_is_missing_is_found(
    org: Org, wired: None
) -> None:
    for number in range(150):
        scoped.commit(org.one.pk, f"fact {number}", "LOCAL", "general")
    assert run("--apply")[0] == 0
    status, told = run("--verify", "--workspace", str(org.one.pk))
    assert status == 0
    assert told.endswith("Verify complete: workspaces_sampled=1 matches=150 mismatches=0 errors=0\n")
    MemoryRecord.objects.filter(content="fact 7").delete()
    status, told = run("--verify")
    assert status == 1
    assert "matches=149 mismatches=1" in told


def test_a_row_without_an_org_is_skipped_with_a_reason(remembered: Org, wired: None) -> None:
    Workspace.objects.filter(pk=remembered.root.pk).update(parent=remembered.lead)
    status, told = run("--apply")
    assert status == 0
    assert "its tree has no root" in told
    assert "copied=3 skipped=1" in told


def test_an_author_that_moved_since_is_no_error(remembered: Org, wired: None) -> None:
    run("--apply")
    Workspace.objects.filter(pk=remembered.one.pk).update(parent=remembered.other)
    status, told = run("--apply")
    assert (status, "copied=3 skipped=1 errors=0" in told) == (0, True)


def test_a_limit_and_a_workspace_narrow_it(remembered: Org, wired: None) -> None:
    assert "scanned=2" in run("--apply", "--limit", "2")[1]
    assert "scanned=3" in run("--apply", "--workspace", str(remembered.one.pk))[1]


def test_a_store_that_refuses_is_an_error_and_not_a_success(remembered: Org, stub: StubPlugin) -> None:
    stub.fail = (400, b"")
    status, told = run("--apply")
    assert (status, "errors=4" in told) == (1, True)
    stub.fail = None
    assert run("--verify")[0] == 1
    assert run("--apply")[0] == 0
    assert run("--verify")[0] == 0  # a store without lists is searched


def test_a_store_that_is_away_is_waited_for(
    remembered: Org, stub: StubPlugin, monkeypatch: Any, settings: Any
) -> None:
    monkeypatch.setattr(backfill, "PAUSE_S", 0.05)
    settings.MEMORY_PLUGIN_TIMEOUT = 1.0
    stub.delay_s = 5.0

    def recover() -> None:
        stub.delay_s = 0.0

    threading.Timer(1.5, recover).start()
    status, told = run("--apply")
    assert status == 0
    assert "the store is away" in told
    assert "copied=4 skipped=0 errors=0" in told
