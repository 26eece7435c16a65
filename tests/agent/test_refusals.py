"""What the control plane can say no to, and how the agent ends or goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.conftest import StartAgent
from tests.agent.fake_platform import TOKEN, WORKSPACE, FakePlatform, Scripted, until
from tests.agent.processes import connect_arguments

REGISTER, HEARTBEAT, STATE = "/registry/register", "/registry/heartbeat", f"/workspaces/{WORKSPACE}/state"
DELETED = Scripted(404, {"workspace_id": WORKSPACE, "deleted": True})


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, 2, "refuses the registration"),
        (401, 3, "refuses this agent's token"),
        (403, 3, "refuses this agent's token"),
        (404, 4, "does not know this workspace"),
        (410, 4, "does not know this workspace"),
    ],
)
def test_a_final_answer_to_register_ends_the_agent(
    serve: StartAgent, platform: FakePlatform, status: int, code: int, words: str
) -> None:
    platform.script(REGISTER, Scripted(status, {"error": "the server's reason"}))
    agent = serve()
    assert agent.exit_code() == code
    assert words in agent.output()
    assert "the server's reason" in agent.output()
    assert TOKEN not in agent.output()
    assert len(platform.calls(REGISTER)) == 1


def test_register_is_tried_again_until_the_control_plane_can(
    serve: StartAgent, platform: FakePlatform
) -> None:
    platform.script(REGISTER, Scripted(503, {"error": "starting"}), Scripted(429, None, {"Retry-After": "1"}))
    serve()
    platform.wait_for_calls(HEARTBEAT)
    assert len(platform.calls(REGISTER)) == 3


def test_register_survives_a_control_plane_that_does_not_listen(start: StartAgent, tmp_path: Path) -> None:
    agent = start(*connect_arguments("http://127.0.0.1:9", tmp_path / "state", "--token", TOKEN))
    until(lambda: "register failed: Connection refused; next try in" in agent.output(), "a failed try")
    assert agent.stop() == 0


def test_three_refused_heartbeats_end_the_agent(serve: StartAgent, platform: FakePlatform) -> None:
    platform.script(HEARTBEAT, Scripted(200, {"status": "ok"}))
    platform.always[HEARTBEAT] = Scripted(401, {"error": "invalid workspace auth token"})
    agent = serve()
    assert agent.exit_code() == 3
    assert "3 times in a row" in agent.output()
    assert len(platform.calls(HEARTBEAT)) == 4


def test_refusals_count_only_in_a_row(serve: StartAgent, platform: FakePlatform) -> None:
    refused, fine = Scripted(401, {"error": "no"}), Scripted(200, {"status": "ok"})
    platform.script(HEARTBEAT, refused, refused, fine, refused, refused)
    agent = serve()
    platform.wait_for_calls(HEARTBEAT, 7)
    assert agent.process.poll() is None


@pytest.mark.parametrize(
    "answer",
    [
        Scripted(401, {"error": "workspace removed", "code": "workspace_removed"}),
        Scripted(404, {"error": "workspace not found"}),
        Scripted(410, {"error": "workspace removed"}),
    ],
)
def test_a_heartbeat_of_a_removed_workspace_ends_the_agent(
    serve: StartAgent, platform: FakePlatform, answer: Scripted
) -> None:
    platform.script(HEARTBEAT, answer)
    assert serve().exit_code() == 4
    assert len(platform.calls(HEARTBEAT)) == 1


def test_a_refused_token_of_a_deleted_workspace_means_gone(
    connect: StartAgent, platform: FakePlatform
) -> None:
    platform.always[STATE] = DELETED
    platform.script(HEARTBEAT, Scripted(401, {"error": "invalid workspace auth token"}))
    assert connect().exit_code() == 4


def test_a_heartbeat_goes_on_after_errors(serve: StartAgent, platform: FakePlatform) -> None:
    page = Scripted(404, None)  # a proxy's, not the control plane's
    platform.script(HEARTBEAT, Scripted(500, {"error": "x"}), page, Scripted(429, None, {"Retry-After": "0"}))
    agent = serve()
    platform.wait_for_calls(HEARTBEAT, 5)
    assert agent.process.poll() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["connect", "--url", "ftp://x", "--workspace", WORKSPACE, "--token", TOKEN], "--url"),
        (["connect", "--url", "http://u:pa55@x", "--workspace", WORKSPACE, "--token", TOKEN], "password"),
        (["connect", "--url", "http://x", "--workspace", "nobody", "--token", TOKEN], "workspace id"),
        (["connect", "--url", "http://x", "--workspace", WORKSPACE], "token is needed"),
        (["connect", "--url", "http://x", "--workspace", WORKSPACE, "--token", f"{TOKEN}\r\nX: y"], "token"),
        (
            ["connect", "--url", "http://x", "--workspace", WORKSPACE, "--token", f"@{TOKEN}"],
            "cannot be read",
        ),
        (["connect", "--url", "http://x", "--workspace", WORKSPACE, "--tokn", TOKEN], "unknown argument"),
        (
            ["serve", "--config-dir", "missing", "--platform-url", "http://x", "--workspace", WORKSPACE],
            "missing",
        ),
        (["serve", "--config-dir", ".", "--workspace", WORKSPACE], "--platform-url"),
    ],
)
def test_wrong_options_are_explained_without_secrets(
    start: StartAgent, arguments: list[str], words: str
) -> None:
    agent = start(*arguments)
    assert agent.exit_code() == 2
    assert words in agent.output()
    assert TOKEN not in agent.output()
    assert "pa55" not in agent.output()
    assert "Traceback" not in agent.output()
