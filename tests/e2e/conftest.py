"""One running stack for the end-to-end tests, used as an operator, an agent and a canvas use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from stack import ports
from tests.stack.conftest import reachable_folder
from tests.stack.running import Answer, Running, ask, eventually


class Operator:
    """The API of a running stack with the operator's token."""

    def __init__(self, stack: Running) -> None:
        self.stack = stack
        self.url = stack.url
        self.token = (stack.folder / "admin-token").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        return ask(f"{self.url}{path}", body=data, headers=headers, method=method)

    def get(self, path: str) -> Any:
        return self.call("GET", path).json()

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("POST", path, {} if body is None else body).json()

    def create(self, name: str, **more: Any) -> str:
        answer = self.call("POST", "/workspaces", {"name": name, **more})
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    def status(self, workspace_id: str) -> str:
        answer = self.call("GET", f"/workspaces/{workspace_id}?include_removed=true")
        return str(answer.json()["status"]) if answer.status == 200 else f"answer {answer.status}"

    def until(self, workspace_id: str, status: str, within_s: float = 10) -> None:
        eventually(lambda: self.status(workspace_id) == status, within_s)

    def socket(self, token: str | None = None) -> ClientConnection:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return connect(self.url.replace("http", "ws") + "/ws", additional_headers=headers)


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with reachable_folder() as home:
        stack = Running("stack up", home / "data", ports.choose(1)[0], RATE_LIMIT="100000")  # we poll fast
        try:
            yield stack.until_up()
        finally:
            stack.kill_whatever_is_left()


@pytest.fixture
def operator(running: Running) -> Operator:
    return Operator(running)
