"""The MCP bridge in real processes: its stream, and one limit for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from access.models import TokenKind
from access.services import mint_token
from delegations import mcp_views
from tests.activity.processes import Realtime
from tests.workspaces.factories import WorkspaceFactory

pytestmark = [
    pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey"), pytest.mark.timeout(180),
]  # fmt: skip


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Realtime]]:
    monkeypatch.setenv("PROVISIONER", "none")
    started = [Realtime(tmp_path) for _ in range(2)]
    for one in started:
        one.wait_until_up()
    yield started
    for one in started:
        one.end()


def test_the_stream_begins_with_the_place_to_post_to(servers: list[Realtime]) -> None:
    workspace = WorkspaceFactory()
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE)
    url, headers = f"{servers[0].url}/workspaces/{workspace.pk}", {"Authorization": f"Bearer {token}"}
    with httpx.stream("GET", f"{url}/mcp/stream", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        event, data = next(lines), next(lines)
    assert (event, data) == ("event: endpoint", f"data: /workspaces/{workspace.pk}/mcp")
    path = data.removeprefix("data: ")
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    posted = httpx.post(servers[0].url + path, json=body, headers=headers, timeout=30)
    assert posted.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert httpx.get(f"{url}/mcp/stream", timeout=30).status_code == 401


def test_one_limit_holds_over_two_processes(servers: list[Realtime]) -> None:
    workspace = WorkspaceFactory()
    headers = {"Authorization": f"Bearer {mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE)}"}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    clients = [httpx.Client(base_url=one.url, headers=headers, timeout=30) for one in servers]
    path, most = f"/workspaces/{workspace.pk}/mcp", mcp_views.LIMIT.most
    answers = [clients[number % 2].post(path, json=body) for number in range(most + 2)]
    # The window began with the first of them.
    assert [one.status_code for one in answers] == [200] * most + [429] * 2
    assert all(int(one.headers["Retry-After"]) >= 1 for one in answers[most:])
