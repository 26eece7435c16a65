"""Every check of who may come in fires, and is quiet when the settings are right (hatch: test_hatch.py)."""

from __future__ import annotations

from typing import Any

import pytest

from access.checks import (
    anonymous_canvas_is_local,
    minting_over_http_is_meant,
    origins_are_exact,
    secrets_can_be_sealed,
    sessions_can_be_confirmed,
    the_hatch_is_meant,
    upstreams_are_addresses,
)


@pytest.fixture(autouse=True)
def _sound(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    settings.MOLECULE_ENV = "production"
    settings.MOLECULE_DEV_OPEN = False
    settings.WS_ANONYMOUS_CANVAS = False
    settings.MOLECULE_ORG_ID = ""
    settings.MOLECULE_ENABLE_TEST_TOKENS = False
    for name in ("CP_UPSTREAM_URL", "CANVAS_PROXY_URL", "MOLECULE_ORG_SLUG"):
        setattr(settings, name, "")


def found(check: Any) -> list[str]:
    messages = check(None)
    assert all(message.msg and message.hint for message in messages)
    return [message.id for message in messages]


ALL = [
    secrets_can_be_sealed,
    the_hatch_is_meant,
    anonymous_canvas_is_local,
    upstreams_are_addresses,
    sessions_can_be_confirmed,
    minting_over_http_is_meant,
    origins_are_exact,
]


@pytest.mark.parametrize("check", ALL)
def test_sound_settings_are_quiet(check: Any) -> None:
    assert found(check) == []


@pytest.mark.parametrize("env", ["production", "development", ""])
def test_a_key_that_is_none_is_refused_everywhere(settings: Any, env: str) -> None:
    settings.MOLECULE_ENV = env
    settings.SECRETS_ENCRYPTION_KEY = "garbage"
    assert found(secrets_can_be_sealed) == ["access.E001"]


@pytest.mark.parametrize(
    ("env", "ids"), [("production", ["access.E002"]), ("prod", ["access.E002"]), ("", ["access.W001"])]
)
def test_a_missing_key_is_refused_in_production_and_warned_about_elsewhere(
    settings: Any, env: str, ids: list[str]
) -> None:
    settings.MOLECULE_ENV = env
    settings.SECRETS_ENCRYPTION_KEY = ""
    assert found(secrets_can_be_sealed) == ids


def test_a_missing_admin_token_is_warned_about(settings: Any) -> None:
    settings.ADMIN_TOKEN = ""
    assert found(the_hatch_is_meant) == ["access.W003"]


@pytest.mark.parametrize(("env", "org"), [("production", ""), ("", "org-1")])
def test_an_anonymous_canvas_is_refused_in_production_and_for_a_tenant(
    settings: Any, env: str, org: str
) -> None:
    settings.WS_ANONYMOUS_CANVAS = True
    settings.MOLECULE_ENV, settings.MOLECULE_ORG_ID = env, org
    assert found(anonymous_canvas_is_local) == ["access.E004"]


def test_an_anonymous_canvas_is_allowed_elsewhere(settings: Any) -> None:
    settings.WS_ANONYMOUS_CANVAS = True
    settings.MOLECULE_ENV = ""
    assert found(anonymous_canvas_is_local) == []


@pytest.mark.parametrize(
    ("name", "check_id"), [("CP_UPSTREAM_URL", "access.E005"), ("CANVAS_PROXY_URL", "access.E006")]
)
@pytest.mark.parametrize(
    ("url", "is_sound"),
    [
        ("https://cp.example", True),
        ("http://127.0.0.1:3000/base", True),
        ("cp.example", False),
        ("ftp://cp.example", False),
        ("https://", False),
        ("https://user:pass@cp.example", False),
        ("https://cp.example?x=1", False),
        ("https://cp.example#x", False),
        ("https://cp.example:99999", False),
        ("https://[::1", False),
    ],
)
def test_what_is_passed_on_goes_to_an_address(
    settings: Any, name: str, check_id: str, url: str, is_sound: bool
) -> None:
    setattr(settings, name, url)
    assert found(upstreams_are_addresses) == ([] if is_sound else [check_id])


def test_a_slug_without_a_control_plane_is_warned_about(settings: Any) -> None:
    settings.MOLECULE_ORG_SLUG = "acme"
    assert found(sessions_can_be_confirmed) == ["access.W004"]
    settings.CP_UPSTREAM_URL = "https://cp.example"
    assert found(sessions_can_be_confirmed) == []


def test_test_tokens_in_production_are_warned_about(settings: Any) -> None:
    settings.MOLECULE_ENABLE_TEST_TOKENS = True
    assert found(minting_over_http_is_meant) == ["access.W005"]
    settings.MOLECULE_ENV = "staging"
    assert found(minting_over_http_is_meant) == []


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example", "canvas.example", "https://canvas.example/", "https://canvas.example/x"],
)
def test_an_origin_that_would_never_match_is_refused(settings: Any, origin: str) -> None:
    settings.CORS_ORIGINS = ["http://localhost:3000", origin]
    assert found(origins_are_exact) == ["access.E007"]
