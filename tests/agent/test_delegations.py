"""Delegating, reporting and polling, against the product itself; and the ways a scripted agent fails."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from access.models import TokenKind
from access.services import mint_token
from agent import delegations as module
from agent.client import Platform
from agent.delegations import Delegations, Refused
from delegations.models import Delegation
from tests.agent.processes import envelope, send
from tests.delegations.factories import fresh, pair
from tests.waiting import eventually
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def agent_of(server: Any, row: Workspace) -> Delegations:
    token = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE)
    return Delegations(Platform(server.url, str(row.pk), lambda: token), poll_s=0.05)


def test_two_agents_hand_a_task_over_and_back(live_server, valkey, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.1)
    caller, callee = pair()
    one, other = agent_of(live_server, caller), agent_of(live_server, callee)
    task = one.delegate(str(callee.pk), "count the beans")
    assert one.delegate(str(callee.pk), "count the beans") == task
    assert one.ended() == []
    assert one.wait(task, 0) is None
    with other.beating(task):
        eventually(lambda: fresh(Delegation(pk=task)).status == "in_progress")
    assert other.report(task, result="42 " * 3000)
    ended = one.wait(task, 5)
    assert ended is not None
    assert (ended.is_completed, ended.text, ended.target_id) == (True, "42 " * 3000, str(callee.pk))
    assert [one.delegation_id for one in one.ended()] == [task]
    assert one.ended() == []  # told once
    assert other.ended() == []  # not its own


def test_a_failure_is_told_with_its_reason(live_server, valkey):
    caller, callee = pair()
    one, other = agent_of(live_server, caller), agent_of(live_server, callee)
    task = one.delegate(str(callee.pk), "x", "other key")
    other.report(task, error="no beans")
    ended = one.wait(task, 5)
    assert ended is not None
    assert (ended.is_completed, ended.text) == (False, "no beans")


def test_what_cannot_be_is_refused_at_once(live_server, valkey):
    caller, _ = pair()
    one = agent_of(live_server, caller)
    with pytest.raises(Refused, match="self-delegation"):
        one.delegate(str(caller.pk), "x")
    with pytest.raises(Refused, match="404"):
        one.wait("unknown", 1)


@pytest.fixture
def failing(serve: Any, tmp_path: Path) -> Any:
    script = tmp_path / "script.json"
    rules: list[dict[str, Any]] = [
        {"match": how, "failure": how} for how in ("crash", "hang", "garbage", "drop")
    ]
    script.write_text(json.dumps(rules))
    return serve("--script", str(script))


def test_an_agent_that_answers_garbage_or_hangs_up(failing):
    port = failing.port()
    for how in ("garbage", "drop"):
        connection = HTTPConnection("127.0.0.1", port, timeout=8)
        connection.request("POST", "/", json.dumps(envelope(how)).encode())
        if how == "garbage":
            assert connection.getresponse().read() == b"{garbage!"
        else:
            with pytest.raises((HTTPException, OSError)):
                connection.getresponse()
        connection.close()
    assert send(port, "fine")["result"]["parts"][0]["text"] == "echo: fine"


def test_an_agent_that_hangs_and_one_that_crashes(failing):
    port = failing.port()
    hung = HTTPConnection("127.0.0.1", port, timeout=0.5)
    hung.request("POST", "/", json.dumps(envelope("hang")).encode())
    with pytest.raises(TimeoutError):
        hung.getresponse()
    dying = HTTPConnection("127.0.0.1", port, timeout=8)
    dying.request("POST", "/", json.dumps(envelope("crash")).encode())
    with pytest.raises((HTTPException, OSError)):
        dying.getresponse()
    assert failing.exit_code() == 70
