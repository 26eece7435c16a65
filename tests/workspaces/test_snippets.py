"""What the snippets do when they are pasted: run for real, with stand-ins for the programs they call."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from workspaces.connection import connection_payload

ID = UUID("11111111-2222-3333-4444-555555555555")
TOKEN = "tok_abc-123"
PROGRAMS = ("npm", "claude", "openclaw", "codex-channel-molecule", "python3", "hermes")
PERSISTING = (
    "claude_code_channel_snippet",
    "universal_mcp_snippet",
    "hermes_channel_snippet",
    "codex_snippet",
    "openclaw_snippet",
)
SHELLS = [shell for shell in ("sh", "bash", "zsh") if shutil.which(shell)]


def snippet(name: str, token: str = TOKEN, workspace: str = "Ada") -> str:
    return connection_payload(
        platform_url="https://ws.example.com", workspace_id=ID, workspace_name=workspace, auth_token=token
    )[name]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder, and a PATH whose programs only note how they were called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\n')
        program.chmod(0o755)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def paste(text: str, home: Path, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": f"{home.parent / 'bin'}:{os.defpath}"}
    return subprocess.run(
        [shell, "-c", text], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def calls(home: Path) -> str:
    noted = home.parent / "calls"
    return noted.read_text() if noted.exists() else ""


def files(home: Path) -> dict[str, str]:
    return {str(one.relative_to(home)): one.read_text() for one in home.rglob("*") if one.is_file()}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", PERSISTING)
def test_a_copy_without_a_token_changes_nothing(home, name, shell):
    assert paste(snippet(name), home, shell).returncode == 0
    before, called = files(home), calls(home)
    shown_again = paste(snippet(name, token=""), home, shell)
    assert "nothing was changed" in shown_again.stderr
    assert (files(home), calls(home)) == (before, called)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        (
            "claude_code_channel_snippet",
            ".claude/channels/molecule/.env",
            f"MOLECULE_WORKSPACE_TOKENS={TOKEN}",
        ),
        ("hermes_channel_snippet", ".hermes/.env", f"MOLECULE_WORKSPACE_TOKEN={TOKEN}"),
        ("codex_snippet", ".codex/config.toml", f'MOLECULE_WORKSPACE_TOKEN = "{TOKEN}"'),
    ],
)
def test_settings_are_kept_for_their_owner_only_and_replaced_by_a_newer_copy(home, name, file, line, shell):
    for token in ("older", TOKEN):
        assert paste(snippet(name, token), home, shell).returncode == 0
    path = home / file
    text = path.read_text()
    assert text.count(line) == 1
    assert "older" not in text
    assert path.stat().st_mode & 0o077 == 0


def test_programs_get_the_token_and_the_servers_name(home):
    paste(snippet("universal_mcp_snippet"), home)
    paste(snippet("openclaw_snippet"), home)
    noted = calls(home)
    assert "claude mcp add --scope user molecule-ada" in noted
    assert f"--env MOLECULE_WORKSPACE_TOKEN={TOKEN} -- molecule-mcp" in noted
    assert f'"MOLECULE_WORKSPACE_TOKEN":"{TOKEN}"' in noted
    assert "openclaw gateway start" in noted


def test_what_others_wrote_into_a_configuration_stays(home):
    config = home / ".codex" / "config.toml"
    config.parent.mkdir()
    config.write_text('model = "gpt-5"\n')
    paste(snippet("codex_snippet"), home)
    paste(snippet("codex_snippet", workspace="Bob"), home)
    text = config.read_text()
    assert text.startswith('model = "gpt-5"\n')
    assert "[mcp_servers.molecule-ada]" in text
    assert "[mcp_servers.molecule-bob]" in text


def test_a_channel_that_watches_other_workspaces_is_left_alone(home):
    settings = home / ".claude" / "channels" / "molecule" / ".env"
    settings.parent.mkdir(parents=True)
    settings.write_text("MOLECULE_WORKSPACE_IDS=aaa,bbb\nMOLECULE_WORKSPACE_TOKENS=t1,t2\n")
    before = files(home)
    assert "already names other workspaces" in paste(snippet("claude_code_channel_snippet"), home).stderr
    assert files(home) == before


class Posted:
    def raise_for_status(self) -> None:
        pass


def run_python(text: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run the Python snippet with stand-ins of the SDK's shape; returns what it did, in order."""
    did: list[Any] = []

    class RemoteAgentClient:
        def __init__(self, workspace_id: str, platform_url: str, agent_card: Any = None,
                     reported_url: str = "", origin: str = "") -> None:  # fmt: skip
            did.append(("client", workspace_id, platform_url))

        def save_token(self, token: str) -> None:
            did.append(("saved", token))

        def run_heartbeat_loop(self) -> None:
            did.append("beating")

    class A2AServer:
        def __init__(self, agent_id: str, inbound_url: str, message_handler: Any, port: int = 0) -> None:
            did.append(message_handler({"params": {"message": {"parts": [{"text": "hi"}]}}}))

        def start_in_background(self) -> None:
            did.append("listening")

        def stop(self) -> None:
            did.append("stopped")

    def post(url: str, **given: Any) -> Posted:
        did.append(("posted", url, given["headers"]["Authorization"], given["json"]["id"]))
        return Posted()

    sdk, server, requests = ModuleType("molecule_agent"), ModuleType("a2a_server"), ModuleType("requests")
    sdk.RemoteAgentClient, server.A2AServer, requests.post = RemoteAgentClient, A2AServer, post  # type: ignore[attr-defined]
    for name, module in (
        ("molecule_agent", sdk),
        ("molecule_agent.a2a_server", server),
        ("requests", requests),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, "snippet", "exec"), {})
    return did


def test_the_python_snippet_registers_with_the_token_itself_and_beats(monkeypatch):
    did = run_python(snippet("python_snippet"), monkeypatch)
    assert did[0] == ("client", str(ID), "https://ws.example.com")
    assert did[1] == ("saved", TOKEN)
    assert did[2] == {"parts": [{"kind": "text", "text": "You said: hi"}]}
    assert did[3:] == [
        "listening",
        ("posted", "https://ws.example.com/registry/register", f"Bearer {TOKEN}", str(ID)),
        "beating",
        "stopped",
    ]


def test_the_python_snippet_without_a_token_saves_none(monkeypatch):
    with pytest.raises(SystemExit, match="nothing was changed"):
        run_python(snippet("python_snippet", token=""), monkeypatch)


def test_curl_sends_a_registration_that_parses(home):
    curl = home.parent / "bin" / "curl"
    curl.write_text(f'#!/bin/sh\nfor one in "$@"; do printf "%s\\n" "$one" >> "{home.parent}/calls"; done\n')
    curl.chmod(0o755)
    assert paste(snippet("curl_register_template"), home).returncode == 0
    sent = calls(home).splitlines()
    assert f"Authorization: Bearer {TOKEN}" in sent
    assert "Origin: https://ws.example.com" in sent
    body = json.loads(sent[-1])
    assert (body["id"], set(body)) == (str(ID), {"id", "url", "agent_card"})
