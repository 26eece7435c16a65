"""The plugin is killed while it is written to and searched: what was accepted is there, and once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from memory import backends
from memory.services import records
from memory_store.models import MemoryRecord
from stack import ports
from tests.clients import agent_of
from tests.conftest import at_once
from tests.memory.conftest import Org
from tests.memory_store.test_plugin import database_url, up
from tests.waiting import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]


def test_what_was_accepted_is_there_once_and_the_rest_was_told(
    org: Org, tmp_path: Path, settings: Any
) -> None:
    port = ports.choose(1)[0]
    given = {"MEMORY_PLUGIN_DATABASE_URL": database_url(), "MEMORY_PLUGIN_LISTEN_ADDR": f"127.0.0.1:{port}"}
    settings.MEMORY_PLUGIN_URL, settings.MEMORY_V2_CUTOVER = f"http://127.0.0.1:{port}", True
    settings.MEMORY_PLUGIN_TIMEOUT = 20.0
    records.forget_ensured()
    backends._plugin.cache_clear()
    plugin = up(tmp_path, **given)
    is_over, killed = threading.Event(), threading.Event()
    told: list[tuple[str, int]] = []

    def write(writer: int) -> None:
        client, number = agent_of(org.one.pk), 0
        while not is_over.is_set():
            number += 1
            text = f"writer {writer} fact {number}"
            body = {"content": text, "scope": "LOCAL"}
            told.append((text, client.post(f"/workspaces/{org.one.pk}/memories", body).status_code))

    def search() -> None:
        client = agent_of(org.one.pk)
        while not is_over.is_set():
            answer = client.get(f"/workspaces/{org.one.pk}/memories", q="fact")
            assert answer.status_code in {200, 502}, answer.content

    def kill() -> None:
        eventually(lambda: sum(status == 201 for _, status in told) > 30, within_s=60)
        plugin.process.kill()
        plugin.process.wait(10)
        killed.set()
        eventually(lambda: any(status == 502 for _, status in told), within_s=60)
        assert agent_of(org.one.pk).get(f"/workspaces/{org.one.pk}/v2/namespaces").status_code == 200
        assert agent_of(org.one.pk).get(f"/workspaces/{org.one.pk}/memory").status_code == 200
        is_over.set()

    outcomes = at_once(lambda: write(1), lambda: write(2), search, kill)
    is_over.set()
    assert outcomes == [None] * 4
    assert {status for _, status in told} == {201, 502}
    backends._plugin.cache_clear()  # the minute of the breaker is another test's
    again = up(tmp_path, **given)
    try:
        body = {"content": "after", "scope": "LOCAL"}
        assert agent_of(org.one.pk).post(f"/workspaces/{org.one.pk}/memories", body).status_code == 201
        kept = list(MemoryRecord.objects.values_list("content", flat=True))
        accepted = [text for text, status in told if status == 201]
        assert len(kept) == len(set(kept))
        assert set(accepted) <= set(kept)
    finally:
        again.process.kill()
        again.process.wait(10)
