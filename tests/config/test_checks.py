"""Every check of the foundation fires, and is quiet when the setting is right."""

from __future__ import annotations

from typing import Any

import pytest

from config.checks import choices_are_known, services_are_named


@pytest.fixture(autouse=True)
def _sound(settings: Any) -> None:
    settings.DATABASE_URL = "postgresql://somewhere/db"
    settings.DJANGO_SECRET_KEY = "k" * 50
    settings.MOLECULE_ENV = "production"
    settings.COMM_ROOT_SIBLINGS = "allow"


def found(check: Any) -> list[str]:
    messages = check(None)
    assert all(message.msg and message.hint for message in messages)
    return [message.id for message in messages]


def test_sound_settings_are_quiet() -> None:
    assert found(services_are_named) == []
    assert found(choices_are_known) == []


def test_a_missing_database_is_refused(settings: Any) -> None:
    settings.DATABASE_URL = ""
    assert found(services_are_named) == ["config.E001"]


def test_a_missing_secret_key_is_refused(settings: Any) -> None:
    settings.DJANGO_SECRET_KEY = ""
    assert found(services_are_named) == ["config.E002"]


def test_an_unknown_environment_name_is_warned_about(settings: Any) -> None:
    settings.MOLECULE_ENV = "staging"
    assert found(services_are_named) == ["config.W001"]


def test_a_value_outside_its_choices_is_refused(settings: Any) -> None:
    settings.COMM_ROOT_SIBLINGS = "perhaps"
    assert found(choices_are_known) == ["config.E003"]
