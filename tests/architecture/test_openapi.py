"""The OpenAPI document is the code's, and no request it allows, nor one that breaks it, is a server error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
import yaml
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from hypothesis import HealthCheck
from hypothesis import settings as effort

from tests.architecture.routes import routes
from tests.conftest import ADMIN_TOKEN
from tests.workspaces.factories import WorkspaceFactory

DOCUMENT = Path(settings.BASE_DIR) / "docs/reference/openapi.yaml"
NOT_HERE = {501, 503}  # answers of their own: not on this deployment, not without a service
ASYNCHRONOUS = {"/workspaces/{workspace_id}/events/stream", "/workspaces/{workspace_id}/a2a"}
ASYNCHRONOUS |= {"/workspaces/{workspace_id}/mcp", "/workspaces/{workspace_id}/mcp/stream"}

schema = schemathesis.openapi.from_path(DOCUMENT)


def test_the_committed_document_is_what_the_code_says(tmp_path: Path):
    fresh = tmp_path / "openapi.yaml"
    call_command("spectacular", file=str(fresh), fail_on_warn=True)
    assert DOCUMENT.read_text() == fresh.read_text(), "run `make openapi`"


def test_every_route_is_documented():
    paths = yaml.safe_load(DOCUMENT.read_text())["paths"]
    documented = {(method.upper(), shown(path)) for path, item in paths.items() for method in item}
    assert {(route.method, route.path) for route in routes()} == documented


def shown(path: str) -> str:
    return path.replace("{workspace_id}", ":id").replace("{", ":").replace("}", "")


READY = "/health/ready"  # says what is late, and after some minutes of tests everything is


@pytest.fixture
def workspace_id() -> str:
    return str(WorkspaceFactory(name=f"fuzzed {uuid4()}").pk)


@pytest.mark.django_db
@schema.exclude(path=list(ASYNCHRONOUS)).parametrize()
@effort(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_server_error(case: Any, workspace_id: str):
    """Each generated request as it is, and aimed at a workspace that exists."""
    client = Client(raise_request_exception=False, HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}")
    for values in (
        case.path_parameters or {},
        {**(case.path_parameters or {}), "workspace_id": workspace_id},
    ):
        path = case.path
        for name, value in values.items():
            path = path.replace(f"{{{name}}}", str(value))
        body = "" if case.body is schemathesis.core.NOT_SET else case.body
        if not isinstance(body, bytes):
            body = json.dumps(body, default=repr)
        answer = client.generic(case.method, path, body, content_type="application/json")
        assert answer.status_code < 500 or answer.status_code in NOT_HERE, (case.method, path, body)
        if answer.status_code >= 400 and answer.status_code != 404 and path != READY:
            assert isinstance(answer.json()["error"], str)
