"""The tenant guard: which requests belong to this deployment, on HTTP and on the socket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from tests.clients import admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness counts from the start of the process, and a test may run late in it."""
    monkeypatch.setattr("activity.health.SERVING_SINCE", datetime.now(UTC))


BEARER = {"HTTP_AUTHORIZATION": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(autouse=True)
def _tenant(settings: Any) -> None:
    settings.MOLECULE_ORG_ID = "org-7"


def asked(path: str = "/workspaces", **headers: str) -> Any:
    return Client(**BEARER, **headers).get(path)


def test_without_a_routing_header_the_answer_names_it() -> None:
    answer = asked()
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "missing tenant routing header",
        "code": "TENANT_ORG_HEADER_REQUIRED",
        "required_header": "X-Molecule-Org-Id",
    }
    assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_X_MOLECULE_ORG_ID": "org-8"},
        {"HTTP_X_MOLECULE_ORG_ID": "org-71"},
        {"HTTP_FLY_REPLAY_SRC": "instance=x;state=org-8"},
        {"HTTP_FLY_REPLAY_SRC": "instance=x;state=org-7-b"},
        {"HTTP_FLY_REPLAY_SRC": "instance=org-7"},
        {"HTTP_X_MOLECULE_ORG_ID": "org-8", "HTTP_REFERER": "http://testserver/"},
    ],
)
def test_another_tenants_request_finds_nothing(headers: dict[str, str]) -> None:
    answer = asked(**headers)
    assert (answer.status_code, answer.content) == (404, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_X_MOLECULE_ORG_ID": "org-7"},
        {"HTTP_FLY_REPLAY_SRC": "instance=x;state=org-7"},
        {"HTTP_FLY_REPLAY_SRC": "instance=x; state=org-7 ;region=fra"},
        {"HTTP_X_MOLECULE_ORG_ID": "org-8", "HTTP_FLY_REPLAY_SRC": "state=org-7"},
    ],
)
def test_this_tenants_request_passes_and_still_needs_a_credential(headers: dict[str, str]) -> None:
    assert asked(**headers).status_code == 200
    assert Client(**headers).get("/workspaces").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/buildinfo", "/metrics"])
def test_probes_pass(path: str) -> None:
    assert anonymous().get(path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/health/x", "/healthz", "/metrics/x", "/registry/heartbeat/x", "/registry"]
)
def test_only_the_exact_paths_do(path: str) -> None:
    assert anonymous().get(path).status_code == 400


def test_agents_register_and_beat_without_it() -> None:
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    body = {"workspace_id": str(workspace.pk)}
    assert agent.post("/registry/heartbeat", body).status_code == 200
    assert agent.post("/registry/register", {**body, "agent_card": {}}).json().get("code") is None


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"HTTP_REFERER": "http://tenant.example/canvas"}, True),
        ({"HTTP_REFERER": "https://tenant.example"}, True),
        ({"HTTP_ORIGIN": "https://tenant.example"}, True),
        ({"HTTP_REFERER": "https://tenant.example.evil/"}, False),
        ({"HTTP_ORIGIN": "https://tenant.example.evil"}, False),
        ({"HTTP_ORIGIN": "https://tenant.example/"}, False),
        ({}, False),
    ],
)
def test_the_canvas_behind_this_address_passes(settings: Any, headers: dict[str, str], passes: bool) -> None:
    settings.CANVAS_PROXY_URL = "http://127.0.0.1:1"
    answer = asked(HTTP_HOST="tenant.example", **headers)
    assert answer.status_code == (200 if passes else 400)
    settings.CANVAS_PROXY_URL = ""
    assert asked(HTTP_HOST="tenant.example", **headers).status_code == 400


def test_unset_it_guards_nothing(settings: Any) -> None:
    settings.MOLECULE_ORG_ID = ""
    assert admin().get("/workspaces").status_code == 200
