"""What the switches mean, what is started beside the server, and what the log says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command

from config.env import Environment
from memory import boot, config
from memory.config import half_set, is_loopback, is_primary, is_sidecar_wanted, is_wired
from tests.activity.processes import environment
from tests.clients import admin
from tests.memory.stub_plugin import StubPlugin
from tests.workspaces.factories import WorkspaceFactory

LOOPBACK, REMOTE = "http://127.0.0.1:9100", "https://memory.example.com"
Read = Callable[[str], Any]


@pytest.mark.parametrize(
    ("given", "wired", "primary", "sidecar"),
    [
        ({}, False, False, False),
        ({"MEMORY_V2_CUTOVER": True}, False, False, True),
        ({"MEMORY_PLUGIN_URL": LOOPBACK}, True, False, True),
        ({"MEMORY_PLUGIN_URL": REMOTE}, True, False, False),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "MEMORY_V2_CUTOVER": True}, True, True, True),
        ({"MEMORY_PLUGIN_URL": REMOTE, "MEMORY_V2_CUTOVER": True}, True, True, False),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "MEMORY_PLUGIN_DISABLE": True}, True, False, False),
        ({"MEMORY_V2_CUTOVER": True, "MEMORY_PLUGIN_DISABLE": True}, False, False, False),
        ({"MEMORY_V2_BACKEND": "inprocess"}, True, False, False),
        ({"MEMORY_V2_BACKEND": "inprocess", "MEMORY_V2_CUTOVER": True}, True, True, False),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "DATABASE_URL": ""}, True, False, False),
    ],
    ids=str,
)
def test_the_modes(settings: Any, given: dict[str, Any], wired: bool, primary: bool, sidecar: bool) -> None:
    for name, value in given.items():
        setattr(settings, name, value)
    assert (is_wired(), is_primary(), is_sidecar_wanted()) == (wired, primary, sidecar)


def test_half_of_it_is_named_in_the_log(settings: Any) -> None:
    assert half_set() == ""
    settings.MEMORY_V2_CUTOVER = True
    assert "MEMORY_V2_CUTOVER=true" in half_set()
    assert "MEMORY_PLUGIN_URL is unset" in half_set()
    settings.MEMORY_PLUGIN_URL = LOOPBACK
    assert half_set() == ""
    settings.MEMORY_V2_CUTOVER = False
    assert "MEMORY_V2_CUTOVER" in half_set()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:9100", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:9100", True),
        ("http://10.0.0.1:9100", False),
        ("http://127.0.0.1.example.com", False),
        ("nonsense", False),
    ],
)
def test_loopback(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


@pytest.mark.parametrize(
    ("given", "denied"),
    [("", False), ("0", False), ("No", False), ("off", False), ("1", True), ("maybe", True)],
)
def test_what_is_not_understood_denies(monkeypatch: pytest.MonkeyPatch, given: str, denied: bool) -> None:
    monkeypatch.setenv("DENIAL", given)
    assert Environment().denial("DENIAL", help="") is denied


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("", 2.0),
        ("500ms", 0.5),
        ("2s", 2.0),
        ("1m", 60.0),
        ("1.5s", 1.5),
        ("0s", 2.0),
        ("-1s", 2.0),
        ("5", 2.0),
    ],
)
def test_a_wait(monkeypatch: pytest.MonkeyPatch, given: str, seconds: float) -> None:
    monkeypatch.setenv("WAIT", given)
    assert Environment().wait("WAIT", default=2.0, help="") == seconds


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        ({}, 3, ""),
        ({"MEMORY_V2_CUTOVER": "true"}, 0, "127.0.0.1 9100"),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "MEMORY_PLUGIN_LISTEN_ADDR": ":9300"}, 0, "127.0.0.1 9300"),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "MEMORY_PLUGIN_LISTEN_ADDR": "[::1]:9300"}, 0, "::1 9300"),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "MEMORY_PLUGIN_LISTEN_ADDR": "somewhere"}, 2, ""),
        ({"MEMORY_PLUGIN_URL": REMOTE, "MEMORY_PLUGIN_DISABLE": "0"}, 3, ""),
        ({"MEMORY_PLUGIN_URL": LOOPBACK, "MEMORY_PLUGIN_DISABLE": "1"}, 3, ""),
    ],
    ids=str,
)
def test_whoever_starts_the_processes_is_told(given: dict[str, str], status: int, told: str) -> None:
    plain = {name: value for name, value in environment().items() if not name.startswith("MEMORY_")}
    asked = subprocess.run(
        [sys.executable, "manage.py", "memory_plugin_wanted"],
        cwd=django_settings.BASE_DIR,
        env={**plain, **given},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (asked.returncode, asked.stdout.strip()) == (status, told), asked.stderr


@pytest.mark.django_db(transaction=True)
def test_the_start_tells_of_the_plugin(stub: StubPlugin, settings: Any, caplog: Any) -> None:
    stub.capabilities = ["fts", "ttl"]
    boot.tell()
    assert "memory-plugin: ok, capabilities=fts,ttl" in caplog.text
    stub.fail = (503, b"")
    settings.MEMORY_V2_CUTOVER = True
    boot.tell()
    assert "probe failed while MEMORY_V2_CUTOVER=true" in caplog.text
    assert config.is_primary()


def test_the_start_warns_of_half_a_cutover(settings: Any, caplog: Any) -> None:
    settings.MEMORY_V2_CUTOVER = True
    boot.tell()
    assert "MEMORY_V2_CUTOVER=true" in caplog.text
    assert "MEMORY_PLUGIN_URL is unset" in caplog.text


@pytest.mark.django_db
def test_shared_context_does_not_exist() -> None:
    row = WorkspaceFactory()
    assert admin().get(f"/workspaces/{row.pk}/shared-context").status_code == 404


def doctor(capsys: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        call_command("memory_doctor")
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out + told.err


@pytest.mark.django_db(transaction=True)
def test_the_doctor_tells_how_it_stands(stub: StubPlugin, settings: Any, capsys: Any) -> None:
    stub.capabilities = ["fts"]
    status, told = doctor(capsys)
    assert (status, "mode: wired" in told, "store: fts" in told) == (0, True, True)
    stub.fail = (503, b"")
    status, told = doctor(capsys)
    assert (status, "the store does not answer" in told) == (1, True)
    settings.MEMORY_PLUGIN_URL = ""
    assert "mode: off" in doctor(capsys)[1]
    settings.MEMORY_V2_CUTOVER = True
    status, told = doctor(capsys)
    assert (status, "mode: half" in told, "MEMORY_PLUGIN_URL is unset" in told) == (1, True, True)
