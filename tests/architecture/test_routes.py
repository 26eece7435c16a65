"""Closed unless opened: every route of the URL table, tried without a credential and with a broken body."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.architecture.routes import Route, routes
from tests.clients import agent_of
from tests.conftest import ADMIN_TOKEN
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db

ROUTES = routes()
# Open on purpose, each with its reason.
PUBLIC = {
    "GET /health": "a load balancer has no credential",
    "GET /health/ready": "likewise",
    "GET /buildinfo": "says nothing but the revision",
    "GET /metrics": "judged by address, token or operator (activity/health.py); the test client is loopback",
    "GET /plugins": "what could be installed; nothing of any workspace",
    "GET /plugins/sources": "where plugins can come from",
    "GET /uploads/limits": "what a client may offer its user before it asks for anything",
    "GET /workspaces/:id": "stripped of what only operators should read",
    "GET /workspaces/:id/state": "its 404s come before the credential: a polling agent learns of a delete",
    "POST /registry/register": "judges the bearer together with the row (workspaces/services/registrant.py)",
    "POST /registry/heartbeat": "likewise",
    "POST /registry/update-card": "likewise",
    "POST /registry/check-access": "answers yes or no about two ids",
    "GET /admin/workspaces/:id/test-token": "a 404 unless switched on; then it judges by itself",
    "GET /channels/adapters": "what could be connected; nothing of any workspace",
    "POST /webhooks/:channel_type": "a chat provider, known by its signature",
    "GET /canvas/viewport": "a position on a canvas",
    "GET /registry/discover/:id": "a missing caller header is a 400 before the credential",
}
PUBLIC |= dict.fromkeys(
    (f"{method} /cp/:path" for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
    "the control plane judges the credential; without one this is a 404",
)
# Open to every credential that is one.
ANY_PRINCIPAL = {"PUT /canvas/viewport": "the position on the canvas is cosmetic"}
# A stranger is told that there is nothing, whether or not there is.
TOLD_NOTHING = {"GET /workspaces/:id/a2a/queue/:queue_id": "ids of messages are guessed in vain"}
JSON_RPC = {"POST /workspaces/:id/mcp": "errors have the shape of their protocol"}
FORGED = {
    "HTTP_ORIGIN": "http://testserver",
    "HTTP_REFERER": "http://testserver/",
    "HTTP_COOKIE": "session=x",
}
BROKEN = [b"{", b"\xff\xfe", b"[1]", b'"text"', b"null", b'{"\\u0000": "\\u0000"}', b'{"name": {"a": [1]}}']


def call(route: Route, body: bytes = b"", workspace_id: Any = None, **headers: str) -> Any:
    client = Client(raise_request_exception=False)
    return client.generic(
        route.method, route.url(workspace_id), body, content_type="application/json", **headers
    )


def closed() -> list[Any]:
    """A stream is an asynchronous view: the test client runs it in a thread, outside a test's transaction."""
    committed = pytest.mark.django_db(transaction=True)
    return [
        pytest.param(route, marks=committed if route.path.endswith("/stream") else [], id=str(route))
        for route in ROUTES
        if str(route) not in PUBLIC
    ]


def test_the_url_table_is_read():
    assert len(ROUTES) > 25


def test_no_exemption_is_stale():
    assert (set(PUBLIC) | set(ANY_PRINCIPAL) | set(TOLD_NOTHING) | set(JSON_RPC)) - {
        str(route) for route in ROUTES
    } == set()


@pytest.mark.parametrize("route", closed())
@pytest.mark.parametrize("posture", ["", "development"])
def test_a_route_is_closed_without_a_credential(route: Route, posture: str, settings: Any):
    settings.MOLECULE_ENV = posture
    for token in (ADMIN_TOKEN, ""):
        settings.ADMIN_TOKEN = token
        answer = call(route, workspace_id=WorkspaceFactory().pk, **FORGED)
        assert answer.status_code == 401, answer.content
        assert answer.json()["error"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", closed())
def test_junk_and_foreign_credentials_open_nothing(route: Route, settings: Any):
    settings.COMM_ROOT_SIBLINGS = "deny"  # or the other root would be a peer, and no stranger
    target, other = WorkspaceFactory(), WorkspaceFactory(parent=WorkspaceFactory())  # no relative
    junk = call(route, workspace_id=target.pk, HTTP_AUTHORIZATION="Bearer junk")
    assert junk.status_code == 401
    if str(route) in ANY_PRINCIPAL:
        return
    foreign = agent_of(other.pk)._client.defaults["HTTP_AUTHORIZATION"]
    refused = {404} if str(route) in TOLD_NOTHING else {401, 403, 400}
    assert call(route, workspace_id=target.pk, HTTP_AUTHORIZATION=foreign).status_code in refused


@pytest.mark.parametrize("route", [one for one in ROUTES if one.method in {"POST", "PUT", "PATCH"}], ids=str)
def test_a_broken_body_is_never_a_server_error(route: Route):
    for body in BROKEN:
        target = WorkspaceFactory()
        answer = call(route, body, target.pk, HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}")
        assert answer.status_code < 500 or answer.status_code == 501 or answer.status_code == 503, (
            body,
            answer.content,
        )
        assert "detail" not in answer.json()
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert isinstance(error["message"] if str(route) in JSON_RPC else error, str)


@pytest.mark.parametrize("tail", ["shared-context", "expand", "collapse"])
def test_routes_that_were_given_up_are_unknown(tail: str):
    row = WorkspaceFactory()
    client = Client(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}")
    for method in ("GET", "POST"):
        assert client.generic(method, f"/workspaces/{row.pk}/{tail}").status_code == 404
