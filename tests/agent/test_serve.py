"""A managed agent: registration, its HTTP endpoint, its secrets, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from agent.server import BODY_LIMIT_BYTES
from tests.agent.conftest import StartAgent
from tests.agent.fake_platform import SECRET, TOKEN, WORKSPACE, FakePlatform, Scripted, until
from tests.agent.processes import call, envelope, send, serve_arguments, write_config


def test_registers_with_its_card_and_token_then_beats(serve: StartAgent, platform: FakePlatform) -> None:
    port = serve("--generation", "4", "--instance", "run-1", "--name", "Ada").port()
    register = platform.wait_for_calls("/registry/register")[0]
    assert set(register.body) == {"id", "url", "agent_card"}
    assert register.body["id"] == WORKSPACE
    assert register.body["url"] == register.body["agent_card"]["url"] == f"http://127.0.0.1:{port}"
    assert set(register.body["agent_card"]) >= {
        "name",
        "description",
        "version",
        "url",
        "skills",
        "capabilities",
    }
    assert register.headers["authorization"] == f"Bearer {TOKEN}"
    assert register.headers["origin"] == platform.url
    beat = platform.wait_for_calls("/registry/heartbeat", 2)[0]
    assert beat.body == {"workspace_id": WORKSPACE, "error_rate": 0.0, "sample_error": "", "active_tasks": 0,
                         "current_task": "", "uptime_seconds": 1}  # fmt: skip
    assert beat.headers["authorization"] == f"Bearer {TOKEN}"
    assert call(port, "GET", "/.well-known/agent-card.json") == (200, register.body["agent_card"])


def test_reads_the_environment_a_backend_hands_over(
    start: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    config_dir = write_config(tmp_path / "configs")
    env = {
        "PLATFORM_URL": platform.url + "/",
        "WORKSPACE_ID": WORKSPACE,
        "WORKSPACE_CONFIG_PATH": str(config_dir),
        "MOLECULE_WORKSPACE_URL": "http://agent.internal:8000",
        "MOLECULE_AGENT_ROLE": "writer",
    }
    start("serve", "--port", "0", env=env)
    body = platform.wait_for_calls("/registry/register")[0].body
    assert body["url"] == "http://agent.internal:8000"
    assert body["agent_card"]["description"] == "writer"


@pytest.mark.parametrize("key", ["kind", "type"])
def test_echoes_a_message(serve: StartAgent, key: str) -> None:
    answer = send(serve().port(), "héllo \U0001f600", key=key)
    result = answer.pop("result")
    assert answer == {"jsonrpc": "2.0", "id": 7}
    assert result.pop("messageId")
    assert result == {
        "kind": "message",
        "role": "agent",
        "parts": [{"kind": "text", "text": "echo: héllo \U0001f600"}],
    }


def test_answers_from_a_script(serve: StartAgent, tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([
        {"match": "weather", "reply": "sunny"},
        {"match": "weather", "reply": "never reached"},
        {"match": "break", "error": {"code": -32000, "message": "broken"}},
    ]))  # fmt: skip
    port = serve("--script", str(script)).port()
    assert send(port, "the weather?")["result"]["parts"][0]["text"] == "sunny"
    assert send(port, "break it")["error"] == {"code": -32000, "message": "broken"}
    assert send(port, "else")["result"]["parts"][0]["text"] == "echo: else"


def test_answers_on_a_kept_connection_without_delay(serve: StartAgent) -> None:
    connection = HTTPConnection("127.0.0.1", serve().port(), timeout=8)
    started = time.monotonic()
    for _ in range(50):
        connection.request("POST", "/", json.dumps(envelope("hi")).encode())
        assert connection.getresponse().read()
    connection.close()
    assert time.monotonic() - started < 1.5  # 50 acknowledgements delayed by 40 ms would take two seconds


def test_speaks_json_whatever_it_is_asked(serve: StartAgent) -> None:
    port = serve().port()
    assert call(port, "GET", "/health") == (200, {"status": "ok"})
    assert call(port, "GET", "/nowhere") == (404, {"error": "not found"})
    assert call(port, "PURGE", "/") == (404, {"error": "not found"})
    unknown = {"jsonrpc": "2.0", "id": "x", "method": "tasks/get", "params": {"id": "1"}}
    assert call(port, "POST", "/", unknown)[1] == {
        "jsonrpc": "2.0", "id": "x", "error": {"code": -32601, "message": "Method not found"}}  # fmt: skip
    codes = {b"{half": -32700, b"": -32700, b"[" * 100_000: -32700, b"[1]": -32600, b'{"id":1}': -32600,
             b'{"method":"message/send","params":[]}': -32602}  # fmt: skip
    for body, code in codes.items():
        status, answer = call(port, "POST", "/", body)
        assert (status, answer["error"]["code"]) == (200, code), body[:40]


def test_refuses_a_body_beyond_16_mib_and_takes_one_of_exactly_that_size(serve: StartAgent) -> None:
    port = serve().port()
    assert call(port, "POST", "/", b" " * (BODY_LIMIT_BYTES + 1))[0] == 413
    raw = json.dumps(envelope("big")).encode()
    assert call(port, "POST", "/", raw + b" " * (BODY_LIMIT_BYTES - len(raw)))[0] == 200


def test_requires_the_inbound_secret_once_it_knows_one(serve: StartAgent) -> None:
    port = serve(secret=SECRET).port()
    assert call(port, "POST", "/", envelope("hi"))[0] == 401
    assert call(port, "POST", "/", envelope("hi"), token=SECRET[:-1])[0] == 401
    assert send(port, "hi", token=SECRET)["result"]
    assert call(port, "GET", "/health")[0] == 200


def test_stores_what_register_and_heartbeat_hand_over(
    serve: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    new_token, new_secret = "a-new-token-from-register", "a-new-secret-from-a-heartbeat"
    platform.script("/registry/register", Scripted(200, {"status": "registered", "auth_token": new_token}))
    platform.token = new_token
    agent = serve(secret=SECRET)
    platform.wait_for_calls("/registry/heartbeat")
    assert platform.calls("/registry/heartbeat")[0].headers["authorization"] == f"Bearer {new_token}"
    platform.hands_over = {"platform_inbound_secret": new_secret}
    secret_file = tmp_path / "configs/.platform_inbound_secret"
    until(lambda: secret_file.read_text() == new_secret, "the new secret is stored")
    token_file = tmp_path / "configs/.auth_token"
    assert token_file.read_text() == new_token
    assert {file.stat().st_mode & 0o777 for file in (token_file, secret_file)} == {0o600}
    assert send(agent.port(), "hi", token=new_secret)["result"]
    assert agent.stop() == 0
    for value in (TOKEN, SECRET, new_token, new_secret):
        assert value not in agent.output()


def test_first_token_comes_with_the_registration(
    start: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    platform.script("/registry/register", Scripted(200, {"status": "registered", "auth_token": TOKEN}))
    (tmp_path / "configs").mkdir()
    start(*serve_arguments(platform.url, tmp_path / "configs"))
    assert "authorization" not in platform.wait_for_calls("/registry/register")[0].headers
    platform.wait_for_calls("/registry/heartbeat")
    assert (tmp_path / "configs/.auth_token").read_text() == TOKEN


def test_pushes_its_task_when_it_starts_and_ends(
    serve: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"match": "", "reply": "done", "delay_s": 0.2}]')
    port = serve("--script", str(script), "--heartbeat-seconds", "60").port()
    platform.wait_for_calls("/registry/register")
    send(port, "count the sheep")
    pushes = [seen.body for seen in platform.wait_for_calls("/registry/heartbeat", 2)]
    assert [(push["active_tasks"], push["current_task"]) for push in pushes] == [
        (1, "count the sheep"),
        (0, ""),
    ]
    assert {(push["uptime_seconds"], push["error_rate"]) for push in pushes} == {(0, 0)}


def test_one_task_too_many_is_answered_busy(
    serve: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"match": "slow", "delay_s": 600}]')
    agent = serve("--script", str(script), "--max-tasks", "1")
    port = agent.port()
    waiting = HTTPConnection("127.0.0.1", port, timeout=30)
    waiting.request("POST", "/", json.dumps(envelope("slow")).encode())
    until(
        lambda: any(beat.body["active_tasks"] for beat in platform.calls("/registry/heartbeat")), "it works"
    )
    assert call(port, "POST", "/", envelope("more")) == (503, {"error": "agent is busy", "busy": True})
    waiting.close()


def test_an_agent_without_hands_is_refused(serve: StartAgent) -> None:
    agent = serve("--max-tasks", "0")
    assert agent.exit_code() == 2
    assert "--max-tasks is at least 1" in agent.output()


def test_a_busy_agent_reports_its_last_state_without_flooding(
    serve: StartAgent, platform: FakePlatform
) -> None:
    port = serve("--heartbeat-seconds", "60").port()
    platform.wait_for_calls("/registry/register")
    for number in range(60):
        send(port, f"message {number}")
    until(lambda: platform.calls("/registry/heartbeat")[-1].body["active_tasks"] == 0, "the idle state")
    assert len(platform.calls("/registry/heartbeat")) < 40


def test_serves_on_an_inherited_socket(serve: StartAgent, platform: FakePlatform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        serve("--listen-fd", str(listener.fileno()), fd=listener.fileno())
        assert platform.wait_for_calls("/registry/register")[0].body["url"] == f"http://127.0.0.1:{port}"
        assert send(port, "hi")["result"]


def test_a_descriptor_that_is_no_socket_is_an_error(serve: StartAgent) -> None:
    with open(os.devnull) as stream:
        agent = serve("--listen-fd", str(stream.fileno()), fd=stream.fileno())
    assert agent.exit_code() == 1
    assert "cannot listen" in agent.output()


def test_poll_mode_serves_and_answers_its_inbox(serve: StartAgent, platform: FakePlatform) -> None:
    platform.add_message("hi")
    agent = serve("--poll", "--poll-seconds", "0.05")
    platform.wait_for_calls("/notify")
    body = platform.calls("/registry/register")[0].body
    assert body["delivery_mode"] == "poll"
    assert "url" not in body
    assert platform.notified() == ["echo: hi"]
    assert call(agent.port(), "GET", "/health")[0] == 200


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_two_seconds(
    serve: StartAgent, platform: FakePlatform, tmp_path: Path, signum: int
) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"match": "slow", "delay_s": 600}]')
    agent = serve("--script", str(script), "--heartbeat-seconds", "60")
    port = agent.port()
    platform.wait_for_calls("/registry/register")
    raw = json.dumps(envelope("slow")).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=8) as sender:
        sender.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw))
        until(lambda: platform.calls("/registry/heartbeat"), "the task push: the message is being worked on")
        started = time.monotonic()
        assert agent.stop(signum) == 0
        assert time.monotonic() - started < 2
        assert b"503" in sender.recv(4096)  # the control plane tries again later


def test_a_signal_ends_it_while_the_control_plane_is_away(serve: StartAgent, platform: FakePlatform) -> None:
    platform.always["/registry/register"] = Scripted(503, {"error": "away"}, {"Retry-After": "60"})
    agent = serve()
    platform.wait_for_calls("/registry/register")
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 2
