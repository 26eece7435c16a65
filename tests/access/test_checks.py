"""Every check of who may come in fires, and is quiet when the settings are right. The hatch: test_hatch.py."""

from __future__ import annotations

from typing import Any

import pytest

from access.checks import anonymous_canvas_is_local, secrets_can_be_sealed, the_hatch_is_meant


@pytest.fixture(autouse=True)
def _sound(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    settings.MOLECULE_ENV = "production"
    settings.MOLECULE_DEV_OPEN = False
    settings.WS_ANONYMOUS_CANVAS = False
    settings.MOLECULE_ORG_ID = ""


def found(check: Any) -> list[str]:
    messages = check(None)
    assert all(message.msg and message.hint for message in messages)
    return [message.id for message in messages]


@pytest.mark.parametrize("check", [secrets_can_be_sealed, the_hatch_is_meant, anonymous_canvas_is_local])
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
