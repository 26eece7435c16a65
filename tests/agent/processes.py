"""The real agent as a child process, its output, and HTTP calls to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.agent.fake_platform import DEADLINE_S, TOKEN, WORKSPACE, until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


class AgentProcess:
    def __init__(
        self, *arguments: str, directory: Path, env: dict[str, str] | None = None, fd: int | None = None
    ):
        self.log = directory / f"output-{len(list(directory.glob('output-*')))}.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-m", "agent", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=ENVIRONMENT | (env or {}),
                pass_fds=() if fd is None else (fd,),
            )

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def lines(self) -> list[str]:
        return self.output().splitlines()

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE_S)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        return self.exit_code()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def port(self) -> int:
        until(lambda: "listening on" in self.output(), "the agent listens")
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.output())
        assert found, self.output()
        return int(found[1])


def call(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """(status, parsed JSON body); `body` bytes are sent as they are."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        authorised = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, raw, authorised | (headers or {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def send(port: int, text: str, *, key: str = "kind", token: str | None = None) -> Any:
    """Post one `message/send`; return the JSON-RPC answer."""
    status, answer = call(port, "POST", "/", envelope(text, key), token)
    assert status == 200, answer
    return answer


def envelope(text: str, key: str = "kind") -> dict[str, Any]:
    message = {"role": "user", "messageId": "m-1", "parts": [{key: "text", "text": text}]}
    return {"jsonrpc": "2.0", "id": 7, "method": "message/send", "params": {"message": message}}


def write_config(directory: Path, *, token: str = TOKEN, secret: str = "") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / ".auth_token").write_text(token + "\n")
    if secret:
        (directory / ".platform_inbound_secret").write_text(secret)
    return directory


def serve_arguments(platform_url: str, config_dir: Path, *more: str) -> list[str]:
    given = ["--config-dir", str(config_dir), "--platform-url", platform_url, "--workspace", WORKSPACE]
    return ["serve", *given, "--port", "0", "--heartbeat-seconds", "0.1", *more]


def connect_arguments(platform_url: str, state_dir: Path, *more: str) -> list[str]:
    given = ["--url", platform_url, "--workspace", WORKSPACE, "--state-dir", str(state_dir)]
    return ["connect", *given, "--heartbeat-seconds", "0.1", "--poll-seconds", "0.05", *more]
