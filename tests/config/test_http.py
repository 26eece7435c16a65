"""The wire format as clients meet it: error shapes, limits, headers, slashes, origins."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from django.core.exceptions import DisallowedHost
from django.db import DatabaseError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import path
from rest_framework import exceptions
from rest_framework.viewsets import ViewSet

from access.permissions import Public
from config.errors import Conflict
from config.http import json_response, only
from config.limits import LimitBody
from config.urls import handler400, handler403, handler404, handler500  # noqa: F401
from config.urls import urlpatterns as product
from tests.clients import admin, anonymous
from tests.conftest import ADMIN_TOKEN

RAISED: dict[str, Exception] = {
    "conflict": Conflict("already there", id=7),
    "gone-database": OperationalError("connection to server at 10.1.2.3 failed"),
    "bad-statement": DatabaseError("syntax error at SECRET"),
    "bug": RuntimeError("SECRET detail"),
    "missing": Http404("SECRET"),
    "unsupported": exceptions.UnsupportedMediaType("x/y"),
    "denied": exceptions.PermissionDenied("SECRET"),
    "host": DisallowedHost("SECRET"),
}


@only("GET", "POST")
def plain(request: HttpRequest, name: str) -> Any:
    raise RAISED[name]


@only("GET", "POST")
def echo(request: HttpRequest) -> Any:
    return json_response(
        {"bytes": len(request.body), "path": request.path}, headers={"X-Frame-Options": "SAMEORIGIN"}
    )


class Framework(ViewSet):
    permission_classes = [Public]

    def show(self, request: Any, name: str) -> Any:
        raise RAISED[name]

    def take(self, request: Any, name: str) -> Any:
        return json_response({"got": request.data})


urlpatterns = [
    path("plain/<name>", plain),
    path("framework/<name>", Framework.as_view({"get": "show", "post": "take"})),
    path("echo", echo),
    path("some/a2a", echo),
    *product,
]


@pytest.fixture
def here(settings: Any) -> Client:
    """The routes of this module beside the product's."""
    settings.ROOT_URLCONF = __name__
    return Client()


@pytest.mark.parametrize("kind", ["plain", "framework"])
@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("conflict", 409, {"error": "already there", "id": 7}),
        (
            "gone-database",
            503,
            {"error": "platform datastore unavailable — retry shortly", "code": "platform_unavailable"},
        ),
        ("bad-statement", 500, {"error": "internal error"}),
        ("bug", 500, {"error": "internal error"}),
        ("missing", 404, {"error": "not found"}),
        ("denied", 403, {"error": "forbidden"}),
        ("host", 400, {"error": "bad request"}),
    ],
)
def test_every_error_has_the_one_shape(here: Client, kind: str, name: str, status: int, body: Any) -> None:
    answer = here.get(f"/{kind}/{name}")
    assert (answer.status_code, answer.json()) == (status, body)
    assert answer["Content-Type"] == "application/json"


def test_an_error_of_the_framework_keeps_its_status(here: Client) -> None:
    answer = here.get("/framework/unsupported")
    assert answer.status_code == 415
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("path", ["/nowhere", "/workspaces/x/y/z", "/"])
def test_an_unknown_path_is_a_404_in_json(path: str) -> None:
    answer = anonymous().get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health", "/workspaces", "/registry/heartbeat"])
def test_a_wrong_method_is_a_405_in_json(path: str) -> None:
    answer = admin().put(path, {})
    assert (answer.status_code, answer.json()) == (405, {"error": "method not allowed"})
    assert answer["Allow"]


def test_head_is_answered_where_get_is() -> None:
    assert Client().head("/health").status_code == 200


@pytest.mark.django_db
def test_a_trailing_slash_means_the_same_view_without_a_redirect() -> None:
    assert admin().get("/workspaces/").status_code == 200
    answer = admin().post("/workspaces/", {"name": "slash", "external": True})
    assert answer.status_code == 201


def test_the_body_is_json_whatever_its_content_type_says(here: Client) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json", ""):
        answer = here.generic("POST", "/framework/x", b'{"a":1}', content_type=content_type)
        assert answer.json() == {"got": {"a": 1}}, content_type


def test_an_empty_json_body_is_an_empty_object(here: Client) -> None:
    assert here.post("/framework/x", b"", content_type="application/json").json() == {"got": {}}


def test_malformed_json_is_a_400(here: Client) -> None:
    answer = here.generic("POST", "/framework/x", b"{", content_type="application/json")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


# --- Limits


def test_a_body_at_the_limit_passes_and_one_byte_more_is_a_413(here: Client, settings: Any) -> None:
    limit = settings.MAX_JSON_BODY_BYTES
    assert here.generic("POST", "/echo", b" " * limit).json()["bytes"] == limit
    answer = here.generic("POST", "/echo", b" " * (limit + 1))
    assert (answer.status_code, answer.json()) == (413, {"error": "request body too large"})


def test_a_rejected_body_still_carries_security_and_cors_headers(here: Client, settings: Any) -> None:
    answer = here.generic("POST", "/echo", b" " * 2_000_000, HTTP_ORIGIN=settings.CORS_ORIGINS[0])
    assert answer.status_code == 413
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Access-Control-Allow-Origin"] == settings.CORS_ORIGINS[0]


@pytest.mark.parametrize("path", ["/some/a2a", "/some/a2a/"])
def test_messages_between_agents_may_be_larger(here: Client, path: str) -> None:
    assert here.generic("POST", path, b" " * 2_000_000).json()["bytes"] == 2_000_000
    assert here.generic("POST", path, b" " * (16 * 1024 * 1024 + 1)).status_code == 413


def test_a_length_that_is_no_number_is_a_400(here: Client) -> None:
    assert here.get("/echo", CONTENT_LENGTH="many").status_code == 400


def chunked(body: bytes) -> HttpRequest:
    request = RequestFactory().post("/echo", HTTP_TRANSFER_ENCODING="chunked")
    del request.META["CONTENT_LENGTH"]
    request.environ["wsgi.input"] = BytesIO(body)
    return request


def test_a_chunked_body_is_read_up_to_the_limit() -> None:
    request = chunked(b'{"a":1}')
    assert LimitBody(lambda given: HttpResponse(given.body))(request).content == b'{"a":1}'
    assert request.META["CONTENT_LENGTH"] == "7"


def test_a_chunked_body_above_the_limit_is_a_413_and_only_so_much_of_it_is_read_away() -> None:
    request = chunked(b" " * 40_000_000)
    assert LimitBody(lambda given: HttpResponse())(request).status_code == 413
    assert request.environ["wsgi.input"].tell() < 20_000_000


# --- Headers

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "default-src 'self'",
}


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health", "/workspaces/nowhere/at/all", "/workspaces", "/metrics"])
def test_every_response_carries_the_security_headers(path: str) -> None:
    answer = anonymous().get(path)
    assert {name: answer.get(name) for name in SECURITY} == SECURITY


def test_a_header_that_a_view_set_stays(here: Client) -> None:
    assert here.get("/echo")["X-Frame-Options"] == "SAMEORIGIN"


# --- Other origins


def preflight(origin: str) -> Any:
    return Client().options(
        "/workspaces",
        HTTP_ORIGIN=origin,
        HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST",
        HTTP_ACCESS_CONTROL_REQUEST_HEADERS="content-type,authorization,x-molecule-org-slug",
    )


def test_a_preflight_is_answered_without_credential_or_database() -> None:
    answer = preflight("http://localhost:3000")  # the database is closed to this test
    assert answer.status_code == 200
    assert answer["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert answer["Access-Control-Allow-Credentials"] == "true"
    assert int(answer["Access-Control-Max-Age"]) == 43_200
    allowed = {name.strip() for name in answer["Access-Control-Allow-Headers"].lower().split(",")}
    assert {"content-type", "authorization", "x-molecule-org-slug", "if-none-match"} <= allowed
    methods = {name.strip() for name in answer["Access-Control-Allow-Methods"].split(",")}
    assert methods == {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def test_a_foreign_origin_is_answered_without_cors_headers() -> None:
    answer = Client().get("/health", HTTP_ORIGIN="https://elsewhere.example")
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer
    assert "Access-Control-Allow-Origin" not in preflight("https://elsewhere.example")


@pytest.mark.django_db
def test_a_refusal_can_be_read_across_origins() -> None:
    answer = Client().get("/workspaces", HTTP_ORIGIN="http://localhost:3001")
    assert answer.status_code == 401
    assert answer["Access-Control-Allow-Origin"] == "http://localhost:3001"
    exposed = {name.strip() for name in answer["Access-Control-Expose-Headers"].split(",")}
    assert {"Retry-After", "Content-Disposition", "ETag"} <= exposed


# --- The operators' pages


@pytest.mark.django_db
def test_the_console_has_its_own_pages_policy_and_login() -> None:
    answer = Client().get("/console/")
    assert answer.status_code == 302
    page = Client().get("/console/login/")
    assert page.status_code == 200
    assert "'unsafe-inline'" in page["Content-Security-Policy"]


@pytest.mark.django_db
def test_the_console_is_protected_against_forged_forms() -> None:
    answer = Client(enforce_csrf_checks=True).post("/console/login/", {"username": "a", "password": "b"})
    assert answer.status_code == 403


@pytest.mark.django_db
def test_the_api_needs_no_form_token_and_sets_no_cookie() -> None:
    answer = Client(enforce_csrf_checks=True, HTTP_AUTHORIZATION=f"Bearer {ADMIN_TOKEN}").post(
        "/workspaces", b'{"name":"form","external":true}', content_type="application/json"
    )
    assert answer.status_code == 201
    assert answer.cookies == {}
