"""A number that 64 bits do not hold, wherever JSON of others is kept: what shows it goes on answering."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients import admin, agent_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)
BIG = '{"n":1e30,"digits":123456789012345678901234567890}'


def test_it_comes_back_from_every_list(valkey: Any) -> None:
    row: Workspace = WorkspaceFactory()
    client, path = agent_of(row.pk), f"/workspaces/{row.pk}"
    writes = {
        "/registry/update-card": f'{{"workspace_id":"{row.pk}","agent_card":{{"name":"a","x":{BIG}}}}}',
        f"{path}/memory": f'{{"key":"k","value":{BIG}}}',
        f"{path}/activity": f'{{"activity_type":"task_update","request_body":{BIG}}}',
        f"{path}/mcp": '{"jsonrpc":"2.0","id":1e30,"method":"ping"}',
    }
    for url, body in writes.items():
        assert client.post(url, body).status_code == 200, url
    for url in (
        "/workspaces",
        path,
        "/events",
        f"{path}/memory",
        f"{path}/memory/k",
        f"{path}/activity",
        f"{path}/session-search",
        f"{path}/.well-known/agent-card.json",
    ):
        answer = admin().get(url)
        assert answer.status_code == 200, (url, answer.content)
        json.loads(answer.content)
    assert json.loads(admin().get(f"{path}/memory/k").content)["value"]["n"] == 1e30
