"""The proxy in a real realtime process: streams, callers that leave, a canvas that is let go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from a2a.services.messages import ABANDONED
from a2a.services.sweeps import sweep_queue
from activity.models import ActivityLog
from tests.a2a.fake_agent import Exchange, FakeAgent, said, waits
from tests.a2a.talking import at, message
from tests.activity.processes import Realtime
from tests.conftest import ADMIN_TOKEN
from tests.waiting import eventually
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)
HEADERS = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Realtime]:
    monkeypatch.setenv("A2A_CANVAS_SYNC_BUDGET", "1")
    monkeypatch.setenv("PROVISIONER", "none")
    process = Realtime(tmp_path)
    process.wait_until_up()
    yield process
    process.end()


def path(server: Realtime, target: Workspace) -> str:
    return f"{server.url}/workspaces/{target.pk}/a2a"


def streams(exchange: Exchange) -> None:
    """Two events, the second when it is let."""
    handler = exchange.handler
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    for number in (1, 2):
        handler.wfile.write(b"data: " + json.dumps(said(f"part {number}")).encode() + b"\n\n")
        handler.wfile.flush()
        exchange.agent.released.wait(30)


def answer_of(target: Workspace) -> Any:
    return ActivityLog.objects.get(workspace_id=target.pk).response_body


def test_an_event_stream_is_relayed_as_it_comes_and_its_last_event_kept(server: Realtime, agent: FakeAgent):
    agent.behaves(streams)
    target = at(agent)
    body = message(method="message/stream")
    with httpx.stream("POST", path(server, target), json=body, headers=HEADERS, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        lines = answer.iter_lines()
        assert "part 1" in next(lines)  # while the agent holds back the rest
        agent.released.set()
        assert "part 2" in " ".join(lines)
    eventually(lambda: answer_of(target) is not None)
    assert answer_of(target)["result"]["parts"][0]["text"] == "part 2"


def test_a_canvas_is_let_go_after_its_budget_and_the_answer_still_comes(server: Realtime, agent: FakeAgent):
    agent.behaves(waits())
    target = at(agent)
    began = time.monotonic()
    answer = httpx.post(path(server, target), json=message(), headers=HEADERS, timeout=30)
    assert 0.9 < time.monotonic() - began < 20
    assert answer.json() == {"status": "queued", "delivery_mode": "push-async", "method": "message/send"}
    agent.released.set()
    eventually(lambda: answer_of(target) is not None)


def test_a_caller_that_leaves_does_not_end_the_turn(server: Realtime, agent: FakeAgent):
    agent.behaves(waits())
    target = at(agent)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            path(server, target),
            json=message(),
            headers={**HEADERS, "X-Timeout": "0"},
            timeout=httpx.Timeout(10, read=0.5),
        )
    assert len(agent.requests) == 1
    agent.released.set()
    eventually(lambda: answer_of(target) is not None)
    assert len(agent.requests) == 1


def test_a_message_whose_process_died_does_not_stay_pending(agent: FakeAgent, server: Realtime) -> None:
    agent.behaves(waits())
    target, body = at(agent), message("hello?", messageId="m-1")
    asked = {**HEADERS, "X-Timeout": "0"}  # and not let go after the budget of a canvas
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(httpx.post, path(server, target), json=body, headers=asked, timeout=60)
        eventually(lambda: len(agent.requests) == 1)
        server.end()
        with pytest.raises(httpx.HTTPError):
            call.result(60)
    agent.released.set()
    row = ActivityLog.objects.get(workspace_id=target.pk)
    assert (row.status, sweep_queue(timezone.now())["abandoned"]) == ("pending", 0)
    assert sweep_queue(timezone.now() + timedelta(minutes=61))["abandoned"] == 1
    row.refresh_from_db()
    assert (row.status, row.error_detail) == ("error", ABANDONED)
    assert sweep_queue(timezone.now() + timedelta(minutes=61))["abandoned"] == 0
