from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from config.env import Environment
from config.settings import env as declared


@pytest.fixture
def env() -> Environment:
    return Environment()


def test_text_is_trimmed_and_falls_back_to_its_default(env: Environment, monkeypatch: Any) -> None:
    monkeypatch.setenv("GIVEN", "  words \n")
    assert env.text("GIVEN", help="") == "words"
    assert env.text("ABSENT", default="else", help="") == "else"


def test_a_secret_may_come_from_a_file(env: Environment, monkeypatch: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from the file\n")
    monkeypatch.setenv("SECRET_FILE", str(secret))
    assert env.text("SECRET", help="") == "from the file"


def test_a_comma_list_is_trimmed_and_loses_empty_entries(env: Environment, monkeypatch: Any) -> None:
    monkeypatch.setenv("LIST", " a, ,b ,")
    assert env.words("LIST", help="") == ["a", "b"]
    assert env.words("NO_LIST", default=["x"], help="") == ["x"]


@pytest.mark.parametrize(("given", "is_on"), [("1", True), (" 1 ", True), ("true", False), ("0", False)])
def test_a_flag_is_on_for_exactly_1(env: Environment, monkeypatch: Any, given: str, is_on: bool) -> None:
    monkeypatch.setenv("FLAG", given)
    assert env.flag("FLAG", help="") is is_on
    assert env.flag("NO_FLAG", help="") is False


@pytest.mark.parametrize(
    ("given", "is_on", "warns"),
    [
        ("1", True, False),
        (" 1 ", True, False),
        ("0", False, False),
        ("", False, False),
        *((word, False, True) for word in ("true", "TRUE", "yes", "on", "2")),
    ],
)
def test_a_switch_is_on_for_exactly_1_and_when_unset(
    env: Environment, monkeypatch: Any, caplog: Any, given: str, is_on: bool, warns: bool
) -> None:
    monkeypatch.setenv("SWITCH", given)
    with caplog.at_level(logging.WARNING, logger="config.env"):
        assert env.switch("SWITCH", help="") is is_on
        assert env.switch("NO_SWITCH", help="") is True
    assert ("SWITCH" in caplog.text) is warns


@pytest.mark.parametrize(
    ("given", "is_on"), [("", True), ("1", True), ("x", True), ("0", False), ("OFF", False), ("n", False)]
)
def test_what_is_on_unless_it_is_switched_off(
    env: Environment, monkeypatch: Any, given: str, is_on: bool
) -> None:
    monkeypatch.setenv("UNLESS", given)
    assert env.unless("UNLESS", help="") is is_on
    assert env.unless("NOT_SET", help="") is True


@pytest.mark.parametrize(
    ("given", "seconds"), [("", 7), ("30m", 1800), ("45", 45), ("2h", 7200), ("x", 7), ("0", 7)]
)
def test_a_duration(env: Environment, monkeypatch: Any, given: str, seconds: int) -> None:
    monkeypatch.setenv("DURATION", given)
    assert env.duration("DURATION", default=7, help="") == seconds


def test_a_choice_ignores_case_and_keeps_what_a_check_must_refuse(env: Environment, monkeypatch: Any) -> None:
    monkeypatch.setenv("KNOWN", " Deny ")
    monkeypatch.setenv("UNKNOWN", "perhaps")
    assert env.choice("KNOWN", ["allow", "deny"], default="allow", help="") == "deny"
    assert env.choice("UNKNOWN", ["allow", "deny"], default="allow", help="") == "perhaps"
    assert env.choice("UNSET", ["allow", "deny"], default="allow", help="") == "allow"


@pytest.mark.parametrize("given", ["0", "-3", "abc", "1.5"])
def test_a_number_that_is_none_gives_the_default_and_one_warning(
    env: Environment, monkeypatch: Any, caplog: Any, given: str
) -> None:
    monkeypatch.setenv("NUMBER", given)
    with caplog.at_level(logging.WARNING, logger="config.env"):
        assert env.positive_int("NUMBER", default=7, help="") == 7
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "NUMBER" in caplog.text


def test_an_unset_number_is_the_default_without_a_warning(env: Environment, caplog: Any) -> None:
    assert env.positive_int("UNSET_NUMBER", default=7, help="") == 7
    assert caplog.records == []


def test_a_count_may_be_zero(env: Environment, monkeypatch: Any) -> None:
    monkeypatch.setenv("COUNT", "0")
    assert env.count("COUNT", default=5, help="") == 0
    monkeypatch.setenv("LESS", "-1")
    assert env.count("LESS", default=5, help="") == 5


def test_networks_are_parsed_and_a_wrong_one_stops_the_boot(env: Environment, monkeypatch: Any) -> None:
    monkeypatch.setenv("NETS", "10.0.0.0/8, ::1/128")
    assert [str(one) for one in env.networks("NETS", help="")] == ["10.0.0.0/8", "::1/128"]
    monkeypatch.setenv("WRONG", "10.0.0.0/99")
    with pytest.raises(ValueError):
        env.networks("WRONG", help="")


def test_a_variable_is_declared_once(env: Environment) -> None:
    env.flag("TWICE", help="")
    with pytest.raises(RuntimeError, match="TWICE"):
        env.flag("TWICE", help="")


def test_every_declared_variable_says_what_it_does() -> None:
    assert [name for name, variable in declared.declared.items() if not variable.help.strip()] == []


@pytest.mark.parametrize("name", ["ADMIN_TOKEN", "DATABASE_URL", "REDIS_URL", "METRICS_TOKEN"])
def test_credentials_are_marked_secret(name: str) -> None:
    assert declared.declared[name].secret


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, 3), ("", 3), ("-5", 3), ("true", 3), ("3.5", 3), ("0x10", 3), (" 7 ", 7), ("0", 0)],
)
def test_starts_at_a_time_are_a_plain_number_or_the_default(
    env: Environment, monkeypatch: Any, given: str | None, expected: int
) -> None:
    monkeypatch.delenv("MOLECULE_PROVISION_CONCURRENCY", raising=False)
    if given is not None:
        monkeypatch.setenv("MOLECULE_PROVISION_CONCURRENCY", given)
    assert env.count("MOLECULE_PROVISION_CONCURRENCY", default=3, help="") == expected
