"""Session cookies: who the control plane says it is, how often it is asked, what happens when it is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from access import sessions
from access.credentials import Kind, resolve
from stack import ports
from tests.access.control_plane import Upstream, serving
from tests.clients import admin
from tests.conftest import ADMIN_TOKEN, at_once
from tests.workspaces.factories import WorkspaceFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

COOKIE = "session=s3cret; other=1"
MEMBER = {"member": True, "user_id": "ada"}


@pytest.fixture
def plane(settings: Any) -> Iterator[Upstream]:
    with serving() as upstream:
        settings.CP_UPSTREAM_URL = upstream.url
        settings.MOLECULE_ORG_SLUG = "acme"
        yield upstream


def browser(**headers: str) -> Client:
    return Client(HTTP_COOKIE=COOKIE, **headers)


def test_a_member_is_an_operator(plane: Upstream) -> None:
    workspace = WorkspaceFactory()
    assert browser().get("/workspaces").status_code == 200
    assert browser().get(f"/workspaces/{workspace.pk}/activity").status_code == 200
    assert browser().get(f"/workspaces/{workspace.pk}/secrets/values").status_code == 401
    (asked,) = plane.asked
    assert (asked.method, asked.path) == ("GET", "/cp/auth/tenant-member?slug=acme")
    assert asked.headers["Cookie"] == COOKIE
    assert asked.headers["User-Agent"] == "molecule-tenant-platform/session-verifier"
    principal = resolve(None, "198.51.100.1", COOKIE)
    assert (principal.kind, principal.actor) == (Kind.SESSION, "session:ada")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"member": False, "user_id": "ada"}),
        (200, {"member": "true", "user_id": "ada"}),
        (200, {"member": 1, "user_id": "ada"}),
        (200, {"member": True, "user_id": ""}),
        (200, {"member": True, "user_id": 7}),
        (200, {"member": True}),
        (200, ["member"]),
        (200, b"no json"),
        (200, b"{" + b" " * 70_000 + b'"member":true,"user_id":"ada"}'),
        (401, MEMBER),
        (403, MEMBER),
        (404, MEMBER),
        (201, MEMBER),
        (302, MEMBER),
    ],
)
def test_everybody_else_is_nobody(plane: Upstream, status: int, body: Any) -> None:
    plane.answers(status, body)
    plane.headers = [("Location", "/elsewhere")] if status == 302 else []
    answer = browser().get("/workspaces")
    assert (answer.status_code, answer.json()) == (401, {"error": "admin auth required"})
    assert browser().get("/workspaces").status_code == 401
    assert len(plane.asked) == 1


@pytest.mark.parametrize("failure", [500, 502, 503, "gone"])
def test_an_unreachable_control_plane_is_a_503_and_is_asked_again(
    plane: Upstream, settings: Any, failure: Any
) -> None:
    if failure == "gone":
        settings.CP_UPSTREAM_URL = f"http://127.0.0.1:{ports.choose(1)[0]}"
    else:
        plane.answers(failure)
    answer = browser().get("/workspaces")
    assert answer.status_code == 503
    assert answer.json() == {
        "error": "session verification unavailable — retry shortly",
        "code": "session_verifier_unavailable",
    }
    settings.CP_UPSTREAM_URL = plane.url
    plane.answers(200, MEMBER)
    assert browser().get("/workspaces").status_code == 200


def test_a_slow_control_plane_is_not_waited_for(plane: Upstream, monkeypatch: Any) -> None:
    monkeypatch.setattr(sessions, "TIMEOUT_S", 0.2)
    plane.delay_s = 1.0
    assert browser().get("/workspaces").status_code == 503


@pytest.mark.parametrize("missing", ["CP_UPSTREAM_URL", "MOLECULE_ORG_SLUG"])
def test_unconfigured_nobody_is_asked(plane: Upstream, settings: Any, missing: str) -> None:
    setattr(settings, missing, "")
    assert browser().get("/workspaces").status_code == 401
    assert plane.asked == []


def test_verdicts_are_kept_for_30_and_for_5_seconds(plane: Upstream, monkeypatch: Any) -> None:
    now = 1000.0
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now)
    for verdict, keeps in ((MEMBER, 30), ({"member": False}, 5)):
        plane.answers(200, verdict)
        plane.asked.clear()
        expected = "ada" if verdict is MEMBER else None
        for later in (0, keeps - 0.1):
            now += later
            found = sessions.confirmed(COOKIE)
            assert (found.user_id if found else None) == expected
        assert len(plane.asked) == 1
        now += 0.2
        sessions.confirmed(COOKIE)
        assert len(plane.asked) == 2
        now += 60


def test_a_verdict_is_for_one_tenant_and_one_cookie(plane: Upstream, settings: Any) -> None:
    assert sessions.confirmed(COOKIE) is not None
    settings.MOLECULE_ORG_SLUG = "beta"
    plane.answers(200, {"member": False})
    assert sessions.confirmed(COOKIE) is None
    settings.MOLECULE_ORG_SLUG = "acme"
    assert sessions.confirmed("session=another") is None
    assert sessions.confirmed(COOKIE) is not None


def test_the_cookie_itself_is_kept_nowhere(plane: Upstream, caplog: Any, capsys: Any) -> None:
    sessions.confirmed(COOKIE)
    plane.answers(500)
    browser(HTTP_X_A="b").get("/workspaces")
    assert "s3cret" not in repr(sessions._verdicts) + caplog.text + capsys.readouterr().out


def test_what_is_kept_is_bounded(plane: Upstream, monkeypatch: Any) -> None:
    monkeypatch.setattr(sessions, "MAX_VERDICTS", 3)
    for number in range(6):
        sessions.confirmed(f"session={number}")
    assert len(sessions._verdicts) == 3
    assert sessions._turns == {}


def test_requests_at_once_ask_once(plane: Upstream) -> None:
    plane.delay_s = 0.2
    found = at_once(*[lambda: sessions.confirmed(COOKIE)] * 8)
    assert {one.user_id for one in found} == {"ada"}
    assert len(plane.asked) == 1


def test_requests_at_once_share_a_failure(plane: Upstream) -> None:
    plane.delay_s = 0.2
    plane.answers(500)
    found = at_once(*[lambda: sessions.confirmed(COOKIE)] * 8)
    assert {getattr(one, "status", None) for one in found} == {503}
    assert len(plane.asked) < 3


def test_a_bearer_alone_decides(plane: Upstream) -> None:
    assert browser(HTTP_AUTHORIZATION="Bearer junk").get("/workspaces").status_code == 401
    assert browser(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}").get("/workspaces").status_code == 200
    assert plane.asked == []


def test_a_junk_cookie_beside_the_operators_token_is_recorded_as_the_operator(plane: Upstream) -> None:
    answer = browser(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}").post(
        "/org/tokens", b"", content_type="application/json"
    )
    assert answer.status_code == 200
    (token,) = admin().get("/org/tokens").json()["tokens"]
    assert token["created_by"] == "admin-token"


def test_a_session_has_a_window_of_its_own(plane: Upstream, settings: Any, valkey: Any) -> None:
    settings.RATE_LIMIT = 2
    assert [browser().get("/workspaces").status_code for _ in range(3)] == [200, 200, 429]
    (name,) = valkey.keys("rate:requests:*")
    assert name.startswith(b"rate:requests:session:")
    assert b"s3cret" not in name


# --- Forged requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"HTTP_ORIGIN": "https://evil.example"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
        ({"HTTP_ORIGIN": "http://testserver.evil"}, 403),
        ({"HTTP_REFERER": "https://evil.example/http://testserver/"}, 403),
        ({"HTTP_ORIGIN": "https://evil.example", "HTTP_REFERER": "http://testserver/"}, 403),
        ({"HTTP_ORIGIN": "http://testserver", "HTTP_HOST": "testserver"}, 200),
        ({"HTTP_ORIGIN": "http://localhost:3000"}, 200),
        ({"HTTP_REFERER": "http://localhost:3000/canvas?x=1"}, 200),
        ({"HTTP_REFERER": "https://testserver/page", "HTTP_HOST": "testserver"}, 200),
    ],
)
def test_a_session_changes_something_only_from_a_page_of_ours(
    plane: Upstream, headers: dict[str, str], status: int
) -> None:
    answer = browser(**headers).post("/org/tokens", b"", content_type="application/json")
    assert answer.status_code == status
    if status == 403:
        assert answer.json() == {"error": "origin not allowed"}
    assert browser(**headers).get("/workspaces").status_code == 200


def test_a_bearer_needs_no_page(plane: Upstream) -> None:
    answer = browser(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}", HTTP_ORIGIN="https://evil.example")
    assert answer.post("/org/tokens", b"", content_type="application/json").status_code == 200
