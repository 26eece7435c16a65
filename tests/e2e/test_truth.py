"""A 2xx names an effect that a second read shows; a client that hangs up at once changes nothing about it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.e2e.conftest import Operator
from tests.stack.running import eventually

Made = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """One mutating route: its request on a prepared workspace, and the read that shows its effect."""

    method: str
    path: str
    body: Any
    shows: Callable[[Operator, str], bool]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def listed(operator: Operator, one: str) -> Made:
    rows = {row["id"]: row for row in operator.get("/workspaces")}
    return rows.get(one, {})


def secrets(operator: Operator, path: str) -> set[str]:
    return {row["key"] for row in operator.get(path)}


ROUTES = [
    Route("PATCH", "/workspaces/{id}", {"role": "truth"}, lambda o, one: listed(o, one)["role"] == "truth"),
    Route("PATCH", "/workspaces/{id}", {"x": 7, "y": 8}, lambda o, one: listed(o, one)["x"] == 7),
    Route("PATCH", "/workspaces/{id}/budget", {"budget_limit": 9},
          lambda o, one: o.get(f"/workspaces/{one}/budget")["budget_limit"] == 9),
    Route("PATCH", "/workspaces/{id}/config", {"k": "v"},
          lambda o, one: o.get(f"/workspaces/{one}/config")["data"].get("k") == "v"),
    Route("PUT", "/workspaces/{id}/secrets", {"key": "TRUTH", "value": "v"},
          lambda o, one: "TRUTH" in secrets(o, f"/workspaces/{one}/secrets")),
    Route("PUT", "/settings/secrets", {"key": "TRUTH_OF_ALL", "value": "v"},
          lambda o, one: "TRUTH_OF_ALL" in secrets(o, "/settings/secrets")),
    Route("PUT", "/workspaces/{id}/model", {"model": "openai/x"},
          lambda o, one: o.get(f"/workspaces/{one}/model")["model"] == "openai/x"),
    Route("POST", "/workspaces/{id}/agent", {"model": "m"},
          lambda o, one: any(e["event_type"] == "AGENT_ASSIGNED" for e in o.get(f"/events/{one}"))),
    Route("POST", "/workspaces/{id}/tokens", None,
          lambda o, one: any(t["kind"] == "api" for t in o.get(f"/workspaces/{one}/tokens")["tokens"])),
    Route("POST", "/workspaces/{id}/activity", {"activity_type": "agent_log", "summary": "truth"},
          lambda o, one: any(r["summary"] == "truth" for r in o.get(f"/workspaces/{one}/activity"))),
    Route("POST", "/workspaces/{id}/notify", {"message": "truth"},
          lambda o, one: any(r["method"] == "notify" for r in o.get(f"/workspaces/{one}/activity"))),
    Route("POST", "/workspaces/{id}/approvals", {"action": "truth"},
          lambda o, one: any(a["action"] == "truth" for a in o.get(f"/workspaces/{one}/approvals"))),
    Route("PUT", "/canvas/viewport", {"x": 3, "y": 4, "zoom": 2},
          lambda o, one: o.get("/canvas/viewport") == {"x": 3, "y": 4, "zoom": 2}),
    Route("POST", "/workspaces/{id}/pause", None, lambda o, one: o.status(one) == "paused"),
    Route("DELETE", "/workspaces/{id}", None, lambda o, one: o.status(one) == "removed"),
]  # fmt: skip


@pytest.fixture
def one(operator: Operator) -> str:
    return operator.create(f"truth {uuid4().hex[:8]}", runtime="external")


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_what_was_answered_is_there(route: Route, operator: Operator, one: str):
    answer = operator.call(route.method, route.path.replace("{id}", one), route.body)
    assert 200 <= answer.status < 300, answer
    assert isinstance(answer.json(), dict)
    assert route.shows(operator, one)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_client_that_hangs_up_gets_the_same_effect(route: Route, operator: Operator, one: str):
    hang_up(operator, route.method, route.path.replace("{id}", one), route.body)
    eventually(lambda: route.shows(operator, one), 20)


def hang_up(operator: Operator, method: str, path: str, body: Any) -> None:
    """Send the whole request and close the connection without reading a byte of the answer."""
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {operator.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("localhost", urlsplit(operator.url).port or 80), timeout=5) as connection:
        connection.sendall(head.encode() + data)
