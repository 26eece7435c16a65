"""A poll-mode agent: what it answers, what it leaves, and how far it remembers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.agent.conftest import StartAgent
from tests.agent.fake_platform import PEER, TOKEN, WORKSPACE, FakePlatform, Scripted, until
from tests.agent.processes import connect_arguments

OWN = f"/workspaces/{WORKSPACE}"
ACTIVITY, NOTIFY, ACK, PEER_A2A = (
    f"{OWN}/activity",
    f"{OWN}/notify",
    f"{OWN}/activity/ack",
    f"/workspaces/{PEER}/a2a",
)


def acked(platform: FakePlatform, row_id: str) -> bool:
    seq = next(row["seq"] for row in platform.rows if row["id"] == row_id)
    return any(seen.body["acked_seq"] >= seq for seen in platform.calls("/activity/ack"))


def test_answers_the_user_and_says_so(connect: StartAgent, platform: FakePlatform) -> None:
    row_id = platform.add_message('say "hi"\x1b[2J')
    agent = connect()
    until(lambda: acked(platform, row_id), "the row is acknowledged")
    register = platform.calls("/registry/register")[0]
    assert register.body["delivery_mode"] == "poll"
    assert "url" not in register.body
    first = platform.calls("/activity")[0]
    assert first.query["type"] == "a2a_receive"
    assert first.query["since_secs"] == "600"
    assert platform.notified() == ['echo: say "hi"\x1b[2J']
    assert platform.calls("/notify")[0].headers["authorization"] == f"Bearer {TOKEN}"
    until(lambda: "since_id" in platform.calls("/activity")[-1].query, "a poll with the cursor")
    assert platform.calls("/activity")[-1].query["since_id"] == row_id
    assert agent.stop() == 0
    said = [line for line in agent.lines() if line[:2] != "20"]  # log lines start with the year
    assert said == ["registered", 'inbox: message from the canvas user: "say \\"hi\\"\\x1b[2J"', "replied"]
    assert TOKEN not in agent.output()


def test_answers_a_peer_through_the_proxy_as_itself(connect: StartAgent, platform: FakePlatform) -> None:
    row_id = platform.add_message("ping", source_id=PEER, message={"metadata": {"delegation_id": "d-1"}})
    connect()
    reply = platform.wait_for_calls(f"{PEER}/a2a")[0]
    assert reply.headers["x-workspace-id"] == WORKSPACE
    assert reply.headers["authorization"] == f"Bearer {TOKEN}"
    assert (reply.body["jsonrpc"], reply.body["method"]) == ("2.0", "message/send")
    message = reply.body["params"]["message"]
    assert message["role"] == "agent"
    assert message["parts"] == [{"kind": "text", "text": "echo: ping"}]
    assert message["metadata"] == {"in_reply_to": row_id, "delegation_id": "d-1"}
    assert platform.calls("/notify") == []


def test_the_backlog_is_answered_oldest_first(connect: StartAgent, platform: FakePlatform) -> None:
    for text in ("one", "two", "three"):
        platform.add_message(text)
    connect()
    platform.wait_for_calls("/notify", 3)
    platform.add_message("four")
    platform.wait_for_calls("/notify", 4)
    assert platform.notified() == ["echo: one", "echo: two", "echo: three", "echo: four"]


def test_leaves_rows_that_want_no_answer(connect: StartAgent, platform: FakePlatform) -> None:
    platform.add_message("my own words", method="notify", request_body=None, response_body={"result": "x"})
    platform.add_message("my own call", source_id=WORKSPACE)
    platform.add_message("", method="chat_upload_receive", request_body={"file_id": "f", "name": "a.txt"})
    platform.add_message("a result", source_id=PEER, method="delegate_result")
    platform.add_message("an answer", source_id=PEER, message={"role": "agent"})
    platform.add_message("answered in push mode", response_body={"result": {}})
    platform.add_message("failed in push mode", status="error")
    platform.add_message("", method="tasks/get", request_body={"method": "tasks/get", "params": {"id": "1"}})
    platform.rows[-1]["request_body"] = ["no", "envelope"]
    last = platform.add_message("hi")
    agent = connect()
    until(lambda: acked(platform, last), "all rows are done")
    assert platform.notified() == ["echo: hi"]
    assert platform.calls(f"{PEER}/a2a") == []
    assert "names no file" in agent.output()
    assert f'inbox: answer from peer {PEER}: "an answer"' in agent.output()


def test_a_restart_answers_nothing_twice_and_skips_nothing(
    connect: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    first = platform.add_message("one")
    agent = connect()
    until(lambda: acked(platform, first), "the first row is done")
    assert agent.stop() == 0
    stored = json.loads((tmp_path / "state/cursor.json").read_text())
    assert stored == {"workspace_id": WORKSPACE, "cursor": first, "handled": [first]}
    assert (tmp_path / "state/cursor.json").stat().st_mode & 0o777 == 0o600
    second = platform.add_message("two")
    connect()
    until(lambda: acked(platform, second), "the second row is done")
    assert platform.notified() == ["echo: one", "echo: two"]


def test_a_killed_agent_has_already_stored_what_it_answered(
    connect: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"match": "two", "delay_s": 1}]')
    for text in ("one", "two"):
        platform.add_message(text)
    agent = connect("--script", str(script))
    until(lambda: 'message from the canvas user: "two"' in agent.output(), "the second row of the page")
    agent.kill()
    assert platform.notified() == ["echo: one"]
    connect()
    platform.wait_for_calls("/notify", 2)
    assert platform.notified() == ["echo: one", "echo: two"]


def test_a_lost_cursor_starts_over_without_answering_again(
    connect: StartAgent, platform: FakePlatform
) -> None:
    first = platform.add_message("one")
    agent = connect()
    until(lambda: acked(platform, first), "the first row is done")
    second = platform.add_message("two")
    platform.lost_cursors.add(first)
    until(lambda: acked(platform, second), "the second row is done")
    assert platform.notified() == ["echo: one", "echo: two"]
    assert agent.process.poll() is None


def test_a_failing_poll_keeps_the_cursor(connect: StartAgent, platform: FakePlatform) -> None:
    first = platform.add_message("one")
    connect()
    until(lambda: acked(platform, first), "the first row is done")
    platform.script(
        ACTIVITY, Scripted(500, {"error": "x"}), Scripted(429, None, {"Retry-After": "0"}), Scripted(200, {})
    )
    second = platform.add_message("two")
    until(lambda: acked(platform, second), "the second row is done")
    assert not platform.scripted[ACTIVITY]
    assert [seen.query.get("since_id") for seen in platform.calls("/activity")][2:].count(None) == 0


def test_an_answer_that_does_not_get_through_is_sent_again(
    connect: StartAgent, platform: FakePlatform
) -> None:
    platform.script(NOTIFY, Scripted(503, {"error": "busy"}), Scripted(429, None, {"Retry-After": "0"}))
    first = platform.add_message("one")
    second = platform.add_message("two")
    agent = connect()
    until(lambda: acked(platform, second), "both rows are done")
    assert platform.notified() == ["echo: one"] * 3 + ["echo: two"]
    assert agent.lines().count('inbox: message from the canvas user: "one"') == 1
    assert first != second


def test_a_peer_reply_sent_again_carries_the_same_message_id(
    connect: StartAgent, platform: FakePlatform
) -> None:
    platform.script(PEER_A2A, Scripted(503, {"error": "busy"}))
    platform.add_message("ping", source_id=PEER)
    connect()
    replies = platform.wait_for_calls(f"{PEER}/a2a", 2)
    assert len({seen.body["params"]["message"]["messageId"] for seen in replies}) == 1


def test_a_refused_answer_does_not_block_the_inbox(connect: StartAgent, platform: FakePlatform) -> None:
    platform.script(PEER_A2A, Scripted(403, {"error": "access denied"}))
    platform.add_message("ping", source_id=PEER)
    platform.add_message("hi")
    agent = connect()
    platform.wait_for_calls("/notify")
    assert len(platform.calls(f"{PEER}/a2a")) == 1
    assert "reply refused: 403 'access denied'" in agent.output()


def test_an_answer_that_never_gets_through_is_given_up(connect: StartAgent, platform: FakePlatform) -> None:
    platform.always[PEER_A2A] = Scripted(502, {"error": "failed to reach workspace agent"})
    platform.add_message("ping", source_id=PEER)
    platform.add_message("hi")
    agent = connect()
    platform.wait_for_calls("/notify")
    assert len(platform.calls(f"{PEER}/a2a")) == 6
    assert "reply given up after 6 tries" in agent.output()


def test_a_scripted_error_fails_the_delegation(
    connect: StartAgent, platform: FakePlatform, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"match": "break", "error": {"code": -32000, "message": "broken"}}]')
    path = f"{OWN}/delegations/d-1/update"
    platform.always[path] = Scripted(200, {"status": "failed", "delegation_id": "d-1"})
    platform.add_message("break", source_id=PEER, message={"metadata": {"delegation_id": "d-1"}})
    connect("--reply", "script", "--script", str(script))
    assert platform.wait_for_calls(path)[0].body == {"status": "failed", "error": "error -32000: broken"}
    assert platform.calls(f"{PEER}/a2a") == []


def test_an_older_control_plane_without_acknowledgements_is_fine(
    connect: StartAgent, platform: FakePlatform
) -> None:
    platform.always[ACK] = Scripted(404, {"error": "not found"})
    platform.add_message("one")
    connect()
    platform.wait_for_calls("/notify")
    second = platform.add_message("two")
    until(lambda: platform.calls("/activity")[-1].query.get("since_id") == second, "the second row is done")
    assert platform.notified() == ["echo: one", "echo: two"]
    assert len(platform.calls("/activity/ack")) == 1


def test_the_token_may_come_from_a_file(start: StartAgent, platform: FakePlatform, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(f"{TOKEN}\n")
    start(*connect_arguments(platform.url, tmp_path / "state", "--token", f"@{tmp_path / 'token.txt'}"))
    assert platform.wait_for_calls("/registry/register")[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_token_given_by_hand_is_kept(connect: StartAgent, platform: FakePlatform) -> None:
    platform.hands_over = {"auth_token": "another-token", "platform_inbound_secret": "a-secret"}
    connect()
    beats = platform.wait_for_calls("/registry/heartbeat", 2)
    assert {beat.headers["authorization"] for beat in beats} == {f"Bearer {TOKEN}"}
