"""POST /workspaces/:id/a2a, against an agent that really listens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from a2a import wire
from activity.models import ActivityLog
from tests.clients import admin, agent_of, anonymous
from tests.waiting import eventually
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import DeliveryMode, UrlSource, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


class Agent:
    """A small HTTP agent; `answer` is what it replies, `requests` what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.gate: threading.Event | None = None
        self.answer: tuple[int, Any] = (200, {"jsonrpc": "2.0", "id": 1, "result": {"kind": "message"}})
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                agent.requests.append((dict(self.headers), json.loads(body)))
                if agent.gate is not None:
                    agent.gate.wait(20)
                status, answer = agent.answer
                data = json.dumps(answer).encode() if answer is not None else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.close()


def say(api: Any, target: Workspace, text: str = "hi", **message: Any) -> Any:
    body = {
        "method": "message/send",
        "params": {"message": {"parts": [{"kind": "text", "text": text}], **message}},
    }
    return api.post(f"/workspaces/{target.pk}/a2a", body)


def pushed(agent: Agent, **fields: Any) -> Workspace:
    return WorkspaceFactory(url=agent.url, url_source=UrlSource.PLATFORM, **fields)


def test_a_message_for_a_polling_agent_waits_in_its_inbox(published):
    target = WorkspaceFactory(delivery_mode=DeliveryMode.POLL, url=None)
    answer = say(admin(), target)
    assert answer.json() == {"status": "queued", "delivery_mode": "poll", "method": "message/send"}
    (row,) = agent_of(target.pk).get(f"/workspaces/{target.pk}/activity", type="a2a_receive").json()
    assert (row["source_id"], row["data"]["text"], row["status"]) == (None, "hi", "ok")
    assert [frame.event for frame in published] == ["ACTIVITY_LOGGED"]


def test_an_agent_is_called_with_the_servers_secret_and_its_answer_is_passed_on(agent, published):
    target = pushed(agent)
    answer = say(admin(), target)
    assert (answer.status_code, answer.json()) == (200, agent.answer[1])
    ((headers, body),) = agent.requests
    assert headers["Authorization"].startswith("Bearer ")
    assert headers["Authorization"] != "Bearer "
    assert (body["jsonrpc"], body["params"]["message"]["role"]) == ("2.0", "user")
    row = ActivityLog.objects.get()
    assert (row.status, row.response_body, row.source_id) == ("ok", agent.answer[1], None)
    assert row.duration_ms >= 1
    assert [frame.event for frame in published] == ["ACTIVITY_LOGGED", "A2A_RESPONSE"]
    assert published[1].payload["response_body"] == agent.answer[1]
    assert published[0].timestamp == row.created_at


def test_peers_talk_with_their_own_token_and_strangers_do_not(agent):
    team = WorkspaceFactory()
    target = pushed(agent, parent=team)
    sibling, outsider = WorkspaceFactory(parent=team), WorkspaceFactory(parent=WorkspaceFactory())
    assert say(agent_of(sibling.pk), target).status_code == 200
    assert ActivityLog.objects.get().source_id == sibling.pk
    assert say(agent_of(outsider.pk), target).status_code == 403
    assert say(anonymous(), target).status_code == 401
    assert len(agent.requests) == 1


def test_a_claimed_identity_must_be_the_tokens_own(agent):
    one, other = WorkspaceFactory(), WorkspaceFactory()
    target = pushed(agent)
    from access.models import TokenKind
    from access.services import mint_token
    from tests.clients import Api

    liar = Api(mint_token(workspace_id=one.pk, kind=TokenKind.INSTANCE), HTTP_X_WORKSPACE_ID=str(other.pk))
    answer = say(liar, target)
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid caller auth token"})
    assert agent.requests == []


def test_the_message_is_stored_before_the_agent_is_asked_and_a_failure_is_on_it(agent):
    target = pushed(agent)
    agent.answer = (500, {"error": "no luck"})
    answer = say(admin(), target)
    assert (answer.status_code, answer.json()) == (500, {"error": "no luck"})
    row = ActivityLog.objects.get()
    assert (row.status, row.error_detail) == ("error", "no luck")


def test_an_agent_that_is_away_is_a_bad_gateway(agent):
    target = pushed(agent)
    agent.close()
    answer = say(admin(), target)
    assert (answer.status_code, answer.json()) == (502, {"error": "failed to reach workspace agent"})
    assert ActivityLog.objects.get().status == "error"


def test_an_empty_answer_is_no_answer(agent):
    agent.answer = (200, None)
    answer = say(admin(), pushed(agent))
    assert (answer.status_code, answer.json()) == (502, {"error": "agent returned empty response body"})


def test_an_address_that_an_agent_named_is_vetted_when_it_is_dialled(agent):
    target = WorkspaceFactory(url=agent.url, url_source=UrlSource.AGENT)
    answer = say(admin(), target)
    assert (answer.status_code, answer.json()) == (502, {"error": "workspace URL is not publicly routable"})
    assert agent.requests == []


def test_a_workspace_without_an_address_says_so():
    answer = say(admin(), WorkspaceFactory(url=None))
    assert (answer.status_code, answer.json()) == (503, {"error": "workspace has no URL", "status": "online"})


def test_a_repeated_message_id_is_one_message():
    target = WorkspaceFactory(delivery_mode=DeliveryMode.POLL)
    for _ in range(2):
        assert say(admin(), target, messageId="m-1").status_code == 200
    assert ActivityLog.objects.count() == 1


def test_a_repeat_of_an_answered_message_gets_the_answer_without_another_turn(agent):
    target = pushed(agent)
    answers = [say(admin(), target, messageId="m-1").json() for _ in range(2)]
    assert answers == [agent.answer[1]] * 2
    assert len(agent.requests) == 1


def test_a_repeat_of_a_message_that_is_being_answered_is_no_second_turn(agent):
    target = pushed(agent)
    agent.gate = threading.Event()
    first: list[Any] = []
    asking = threading.Thread(target=lambda: first.append(say(admin(), target, messageId="m-1")))
    asking.start()
    eventually(lambda: bool(agent.requests))
    repeat = say(admin(), target, messageId="m-1")
    assert (repeat.status_code, repeat.json()["status"]) == (409, "pending")
    agent.gate.set()
    asking.join(10)
    assert first[0].status_code == 200
    assert len(agent.requests) == 1


def test_an_answer_that_is_too_large_is_not_kept(agent, monkeypatch):
    monkeypatch.setattr(wire, "MAX_ANSWER_BYTES", 50)
    agent.answer = (200, {"result": "x" * 100})
    answer = say(admin(), pushed(agent))
    assert (answer.status_code, answer.json()["max_bytes"]) == (502, 50)
    assert (ActivityLog.objects.get().status, ActivityLog.objects.get().response_body) == ("ok", None)


def test_a_url_that_cannot_be_asked_leaves_no_message_waiting():
    target = WorkspaceFactory(url="http://exämple.invalid:1/", url_source=UrlSource.PLATFORM)
    answer = say(admin(), target)
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to create proxy request"})
    assert ActivityLog.objects.get().status == "error"


def test_an_unknown_target_and_a_bad_body():
    assert say(admin(), WorkspaceFactory.build()).status_code == 404
    target = WorkspaceFactory()
    assert admin().post(f"/workspaces/{target.pk}/a2a", []).status_code == 400
    assert admin().get(f"/workspaces/{target.pk}/a2a").status_code == 405
    assert admin().post(f"/workspaces/{uuid4()}/a2a", {"method": "x"}).status_code == 404


def test_a_spent_budget_stops_messages_until_the_month_is_over(agent):
    target = pushed(agent, budget_limit=100, monthly_spend=100)
    answer = say(admin(), target)
    assert (answer.status_code, answer.json()) == (402, {"error": "workspace budget limit exceeded"})
    assert not ActivityLog.objects.exists()
    last_month = timezone.now().date().replace(day=1) - timedelta(days=1)
    Workspace.objects.filter(pk=target.pk).update(spend_month=last_month.replace(day=1))
    assert say(admin(), target).status_code == 200
