"""Which policy a path is answered with; the other security headers: test_http.py."""

from __future__ import annotations

import pytest

from config.security_headers import API_POLICY, CANVAS_POLICY, is_api_path
from tests.clients import anonymous

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "path", ["/workspaces", "/workspaces/x/y/z", "/org/tokens", "/org", "/health", "/cp/auth/me", "/events/x"]
)
def test_the_api_loads_nothing(path: str) -> None:
    assert anonymous().get(path)["Content-Security-Policy"] == API_POLICY == "default-src 'self'"


@pytest.mark.parametrize("path", ["/", "/orgsomething", "/workspacesx/y", "/_next/a.js", "/favicon.ico"])
def test_pages_of_the_canvas_have_their_own(path: str) -> None:
    answer = anonymous().get(path)
    assert answer["Content-Security-Policy"] == CANVAS_POLICY
    assert "unsafe-eval" not in CANVAS_POLICY
    assert answer["X-Frame-Options"] == "DENY"


def test_the_table_decides_and_nobody_lists_by_hand() -> None:
    for segment in (
        "workspaces",
        "registry",
        "org",
        "settings",
        "admin",
        "secrets",
        "cp",
        "health",
        "static",
    ):
        assert is_api_path(f"/{segment}")
        assert is_api_path(f"/{segment}/x")
        assert not is_api_path(f"/{segment}x")
    assert not is_api_path("/")
    assert not is_api_path("")
