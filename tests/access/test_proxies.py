"""What is passed on to the control plane and to the canvas, and what never leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.test import Client

from stack import ports
from tests.access.control_plane import Upstream, serving
from tests.conftest import ADMIN_TOKEN
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db

CREDENTIALS = {"HTTP_AUTHORIZATION": "Bearer of-the-user", "HTTP_COOKIE": "session=s3cret"}


@pytest.fixture
def upstream(settings: Any) -> Iterator[Upstream]:
    with serving() as served:
        served.answers(200, b"hello")
        yield served


@pytest.fixture
def plane(upstream: Upstream, settings: Any) -> Upstream:
    settings.CP_UPSTREAM_URL = upstream.url
    return upstream


@pytest.fixture
def canvas(upstream: Upstream, settings: Any) -> Upstream:
    settings.CANVAS_PROXY_URL = upstream.url
    return upstream


# --- The control plane


@pytest.mark.parametrize(
    "path",
    [
        "/cp/auth/me",
        "/cp/auth/a/b",
        "/cp/orgs",
        "/cp/orgs/7/members",
        "/cp/billing/plan",
        "/cp/templates",
        "/cp/templates/x",
        "/cp/legal/terms",
    ],
)
def test_listed_paths_are_passed_on_with_their_credentials(plane: Upstream, path: str) -> None:
    plane.headers = [("X-From", "plane"), ("Set-Cookie", "a=1; Path=/; Priority=High"), ("Set-Cookie", "b=2")]
    answer = Client(**CREDENTIALS, HTTP_HOST="tenant.example").get(path, {"q": "a b"})
    assert (answer.status_code, b"".join(answer.streaming_content)) == (200, b"hello")
    assert answer["X-From"] == "plane"
    cookies = [cookie.OutputString() for cookie in answer.cookies.values()]
    assert cookies == ["a=1; Path=/; Priority=High", "b=2"]
    (asked,) = plane.asked
    assert (asked.method, asked.path) == ("GET", f"{path}?q=a+b")
    assert asked.headers["Authorization"] == "Bearer of-the-user"
    assert asked.headers["Cookie"] == "session=s3cret"
    assert asked.headers["Host"] == plane.url.removeprefix("http://")
    assert asked.headers["X-Forwarded-For"] == "127.0.0.1"
    assert asked.headers["X-Forwarded-Host"] == "tenant.example"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_method_and_its_body_are_passed_on(plane: Upstream, method: str) -> None:
    plane.answers(409, b'{"error":"theirs"}')
    answer = Client().generic(method, "/cp/auth/login", b'{"a":1}', content_type="application/json")
    assert (answer.status_code, b"".join(answer.streaming_content)) == (409, b'{"error":"theirs"}')
    (asked,) = plane.asked
    assert (asked.method, asked.body) == (method, b'{"a":1}')
    assert asked.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/cp/",
        "/cp",
        "/cp/admin",
        "/cp/authx/me",
        "/cp/auth",
        "/cp/billing",
        "/cp/orgsx",
        "/cp/auth/../admin",
        "/cp/auth/%2e%2e/admin",
        "/cp/auth/%252e%252e/admin",
        "/cp/auth/..%2fadmin",
        "/cp/auth/./me",
        "/cp/auth//me",
        "/cp/auth/a%5cb",
        "/cp/auth/a%00b",
        "/cp//auth/me",
    ],
)
def test_nothing_else_leaves(plane: Upstream, settings: Any, path: str) -> None:
    settings.CANVAS_PROXY_URL = ""
    answer = Client(**CREDENTIALS).get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
    assert plane.asked == []


@pytest.mark.parametrize("path", ["/cp", "/cp/", "/cp/admin", "/cp/auth/%2e%2e/admin"])
def test_nor_does_it_reach_the_canvas(plane: Upstream, canvas: Upstream, path: str) -> None:
    assert Client(**CREDENTIALS).get(path).status_code == 404
    assert canvas.asked == []


def test_redirects_are_the_clients_to_follow(plane: Upstream) -> None:
    plane.answers(302)
    plane.headers = [("Location", "https://login.example/")]
    answer = Client().get("/cp/auth/login")
    assert (answer.status_code, answer["Location"]) == (302, "https://login.example/")


def test_a_control_plane_that_is_away_is_a_502(settings: Any) -> None:
    settings.CP_UPSTREAM_URL = f"http://127.0.0.1:{ports.choose(1)[0]}"
    answer = Client().get("/cp/auth/me")
    assert (answer.status_code, answer.json()) == (502, {"error": "control plane unavailable"})
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_without_one_there_is_nothing(settings: Any) -> None:
    assert Client().get("/cp/auth/me").json() == {"error": "not found"}


# --- The canvas


@pytest.mark.parametrize("path", ["/", "/_next/static/a%20b.js", "/orgsomething", "/favicon.ico"])
def test_what_no_route_serves_is_the_canvas_without_our_credentials(canvas: Upstream, path: str) -> None:
    canvas.headers = [("Content-Type", "text/html"), ("ETag", '"1"')]
    answer = Client(**CREDENTIALS).get(path)
    assert (answer.status_code, b"".join(answer.streaming_content)) == (200, b"hello")
    assert (answer["Content-Type"], answer["ETag"]) == ("text/html", '"1"')
    assert "'unsafe-inline'" in answer["Content-Security-Policy"]
    (asked,) = canvas.asked
    assert asked.path == path
    assert not {"authorization", "cookie"} & {name.lower() for name in asked.headers}


def test_routes_of_ours_stay_ours(canvas: Upstream) -> None:
    assert Client().get("/workspaces").status_code == 401
    assert Client().get("/health").json() == {"status": "ok"}
    missing = Client(HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}").get(
        f"/workspaces/{WorkspaceFactory().pk}/activity", {"since_id": "x"}
    )
    assert missing.status_code == 410
    assert canvas.asked == []


def test_a_connection_does_not_stay_open_after_a_head(canvas: Upstream, monkeypatch: Any) -> None:
    closed = []
    real = httpx.Client.close
    monkeypatch.setattr(httpx.Client, "close", lambda self: (closed.append(1), real(self)))
    answer = Client().head("/")
    answer.close()
    assert answer.status_code == 200
    assert closed


def test_a_canvas_that_is_away_is_a_502(settings: Any) -> None:
    settings.CANVAS_PROXY_URL = f"http://127.0.0.1:{ports.choose(1)[0]}"
    answer = Client().get("/")
    assert (answer.status_code, answer.json()) == (502, {"error": "canvas unavailable"})


def test_without_a_canvas_an_unknown_path_is_a_404() -> None:
    answer = Client().get("/")
    assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
