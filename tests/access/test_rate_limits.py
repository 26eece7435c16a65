"""How often: the limits as callers meet them, exact across processes, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from redis.connection import AbstractConnection

from access import credentials, windows
from access.models import TokenKind
from access.services import mint_token, revoke_tokens
from access.windows import Charge, Limit, take
from activity.models import MetricCounter
from activity.tally import tally
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.outages import valkey_away
from tests.workspaces.factories import WorkspaceFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture(autouse=True)
def _just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness counts from the start of the process, and a test may run late in it."""
    monkeypatch.setattr("activity.health.SERVING_SINCE", datetime.now(UTC))


NAMES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


@pytest.fixture
def five(settings: Any) -> None:
    settings.RATE_LIMIT = 5


@contextmanager
def round_trips() -> Iterator[list[int]]:
    """One entry per trip to Valkey, whatever it carries."""
    sent: list[int] = []
    real = AbstractConnection.send_packed_command

    def spy(self: Any, command: Any, *args: Any, **more: Any) -> Any:
        sent.append(1)
        return real(self, command, *args, **more)

    AbstractConnection.send_packed_command = spy  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        AbstractConnection.send_packed_command = real  # type: ignore[method-assign]


def counted(name: str, **labels: str) -> int:
    tally.flush()
    wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    row = MetricCounter.objects.filter(name=name, labels=wanted).first()
    return row.value if row else 0


# --- The limit of requests


@pytest.mark.usefixtures("five")
def test_the_sixth_request_of_five_is_refused() -> None:
    def refused() -> tuple[int, int]:
        return (
            counted("molecule_http_requests_total", method="GET", path="/workspaces", status="429"),
            counted("molecule_rate_limited_total", scope="requests"),
        )

    requests, limited = refused()
    answers = [admin()._client.get("/workspaces", HTTP_ORIGIN="http://localhost:3000") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0"]
    for answer in answers:
        assert answer["X-RateLimit-Limit"] == "5"
        assert 1 <= int(answer["X-RateLimit-Reset"]) <= 60
    last = answers[-1]
    assert 1 <= int(last["Retry-After"]) <= 60
    assert last.json() == {"error": "rate limit exceeded", "retry_after": int(last["Retry-After"])}
    assert last["X-Content-Type-Options"] == "nosniff"
    assert last["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert "Retry-After" in last["Access-Control-Expose-Headers"]
    assert refused() == (requests + 1, limited + 1)


@pytest.mark.usefixtures("five")
def test_a_window_ends(valkey: Any) -> None:
    for _ in range(6):
        last = admin().get("/workspaces")
    assert last.status_code == 429
    (name,) = valkey.keys("rate:requests:*")
    valkey.delete(name)  # as expiry does
    windows.forget_everything()
    assert admin().get("/workspaces").status_code == 200
    assert 0 < valkey.ttl(name) <= 60


@pytest.mark.usefixtures("five")
def test_two_callers_behind_one_address_have_a_window_each() -> None:
    one, two = agent_of(WorkspaceFactory().pk), agent_of(WorkspaceFactory().pk)
    for _ in range(6):
        first = one.get("/workspaces")
    assert first.status_code == 429
    assert two.get("/workspaces").status_code == 401
    assert admin().get("/workspaces").status_code == 200


@pytest.mark.usefixtures("five")
def test_made_up_bearers_share_the_address_and_make_no_window_of_their_own(valkey: Any) -> None:
    statuses = [Api(f"junk-{number}").get("/workspaces").status_code for number in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert valkey.keys("rate:requests:*") == [b"rate:requests:ip:127.0.0.1"]


@pytest.mark.usefixtures("five")
def test_a_claimed_org_or_address_makes_no_window() -> None:
    for number in range(5):
        Api(HTTP_X_MOLECULE_ORG_ID=f"org-{number}", HTTP_X_FORWARDED_FOR=f"10.0.0.{number}").get(
            "/workspaces"
        )
    assert Api(HTTP_X_FORWARDED_FOR="10.9.9.9").get("/workspaces").status_code == 429


@pytest.mark.usefixtures("five")
def test_behind_a_trusted_proxy_each_client_has_its_own(settings: Any) -> None:
    settings.TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    for _ in range(6):
        last = Api(HTTP_X_FORWARDED_FOR="198.51.100.1").get("/workspaces")
    assert last.status_code == 429
    assert Api(HTTP_X_FORWARDED_FOR="198.51.100.2").get("/workspaces").status_code == 401


@pytest.mark.usefixtures("five")
def test_what_is_never_limited(settings: Any) -> None:
    for _ in range(8):
        for path in ("/health", "/health/ready", "/buildinfo", "/metrics"):
            answer = anonymous().get(path)
            assert answer.status_code == 200
            assert "X-RateLimit-Limit" not in answer
        asked = {"HTTP_ORIGIN": "http://localhost:3000", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "GET"}
        assert Client().options("/workspaces", **asked).status_code == 200


@pytest.mark.usefixtures("five")
def test_an_unknown_path_counts_too() -> None:
    assert [anonymous().get("/scan").status_code for _ in range(6)] == [404] * 5 + [429]


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("env", ["dev", "development"])
def test_in_development_there_is_no_limit_and_no_credential_less(settings: Any, env: str) -> None:
    settings.MOLECULE_ENV = env
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    for _ in range(7):
        answer = admin().get("/workspaces")
        beat = agent.post("/registry/heartbeat", {"workspace_id": str(workspace.pk)})
        for one in (answer, beat):
            assert (one.status_code, one["X-RateLimit-Limit"]) == (200, "unlimited")
            assert "X-RateLimit-Remaining" not in one
    assert anonymous().get("/workspaces").status_code == 401


# --- Failed logins


def test_an_address_that_fails_too_often_is_refused_only_without_a_credential(settings: Any) -> None:
    settings.AUTH_FAIL_LIMIT = 3
    tally.flush()
    before = counted("molecule_auth_failures_total", **{"class": "invalid"})
    statuses = [Api(f"junk-{number}").get("/workspaces").status_code for number in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    answer = anonymous().get("/workspaces")
    assert (answer.status_code, answer["X-RateLimit-Limit"]) == (429, "3")
    assert int(answer["Retry-After"]) >= 1
    assert admin().get("/workspaces").status_code == 200
    workspace = WorkspaceFactory()
    assert agent_of(workspace.pk).get(f"/workspaces/{workspace.pk}/activity").status_code == 200
    assert Client(REMOTE_ADDR="198.51.100.7").get("/workspaces").status_code == 401
    assert counted("molecule_auth_failures_total", **{"class": "invalid"}) - before == 3


def test_a_caller_with_a_credential_keeps_its_401s(settings: Any) -> None:
    settings.AUTH_FAIL_LIMIT = 2
    agent = agent_of(WorkspaceFactory().pk)
    assert [agent.get("/workspaces").status_code for _ in range(4)] == [401] * 4


def test_beats_with_made_up_bearers_are_failures_too(settings: Any) -> None:
    settings.AUTH_FAIL_LIMIT = 2
    workspace = WorkspaceFactory()
    agent_of(workspace.pk)
    body = {"workspace_id": str(workspace.pk)}
    statuses = [Api(f"junk-{one}").post("/registry/heartbeat", body).status_code for one in range(4)]
    assert statuses[:2] == [401, 401]
    assert set(statuses[2:]) == {429}


def test_at_once_no_more_failures_are_answered_than_allowed(settings: Any, transactional_db: Any) -> None:
    settings.AUTH_FAIL_LIMIT = 4
    calls = [
        lambda number=number: Api(f"junk-{number}").get("/workspaces").status_code for number in range(12)
    ]
    statuses = at_once(*calls)
    assert (statuses.count(401), statuses.count(429)) == (4, 8)


# --- Heartbeats


def beat(agent: Api, workspace: Any) -> Any:
    body = {"workspace_id": str(workspace.pk), "active_tasks": 0, "current_task": "", "uptime_seconds": 60}
    return agent.post("/registry/heartbeat", body)


def test_an_unchanged_beat_costs_two_statements_and_one_trip() -> None:
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    beat(agent, workspace)
    with CaptureQueriesContext(connection) as asked, round_trips() as trips:
        answer = beat(agent, workspace)
    assert answer.status_code == 200
    assert answer["X-RateLimit-Remaining"] == str(1_000_000 - 2)
    assert (len(asked), len(trips)) == (2, 1)


def test_an_inbox_poll_costs_two_statements_and_one_trip() -> None:
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    agent.get(f"/workspaces/{workspace.pk}/activity", type="a2a_receive")
    with CaptureQueriesContext(connection) as asked, round_trips() as trips:
        assert agent.get(f"/workspaces/{workspace.pk}/activity", type="a2a_receive").status_code == 200
    assert (len(asked), len(trips)) == (2, 1)


@pytest.mark.usefixtures("five")
def test_a_beat_too_many_is_refused_and_from_then_on_costs_no_trip_and_no_write() -> None:
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    statuses = [beat(agent, workspace).status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    workspace.refresh_from_db()
    known = workspace.last_heartbeat_at
    with round_trips() as trips:
        answer = beat(agent, workspace)
    assert (answer.status_code, answer["X-RateLimit-Remaining"]) == (429, "0")
    assert int(answer["Retry-After"]) >= 1
    assert trips == []
    workspace.refresh_from_db()
    assert workspace.last_heartbeat_at == known


@pytest.mark.usefixtures("five")
def test_beats_and_other_requests_of_a_token_share_its_window(valkey: Any) -> None:
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    for _ in range(3):
        beat(agent, workspace)
    agent.get(f"/workspaces/{workspace.pk}/activity")
    assert beat(agent, workspace)["X-RateLimit-Remaining"] == "0"
    assert len(valkey.keys("rate:requests:*")) == 1


@pytest.mark.django_db(transaction=True)
def test_many_beats_at_once_get_exactly_the_limit(settings: Any) -> None:
    settings.RATE_LIMIT = 7
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    outcomes = at_once(*[lambda: beat(agent, workspace).status_code] * 16)
    assert (outcomes.count(200), outcomes.count(429)) == (7, 9)


def test_a_beat_that_ends_early_is_charged_too(valkey: Any) -> None:
    anonymous().post("/registry/heartbeat", {"workspace_id": "x"})
    assert valkey.get("rate:requests:ip:127.0.0.1") == b"1"


# --- Windows


def test_processes_share_a_window_and_give_out_exactly_what_it_holds() -> None:
    limit = Limit("test", 20, 60)

    def process() -> int:
        return sum(not take(Charge(limit, "key"))[0].is_exceeded for _ in range(10))

    assert sum(at_once(*[process] * 5)) == 20


def test_a_window_without_an_end_is_given_one(valkey: Any) -> None:
    charge = Charge(Limit("test", 5, 60), "key")
    valkey.set(charge.name, 3)
    assert take(charge)[0].used == 4
    assert 0 < valkey.ttl(charge.name) <= 60


def test_looking_costs_nothing(valkey: Any) -> None:
    limit = Limit("test", 1, 60)
    look = Charge(limit, "key", is_look=True)
    assert not take(look)[0].is_exceeded
    assert valkey.get(look.name) is None
    take(Charge(limit, "key"))
    assert take(look)[0].is_exceeded


def test_what_is_remembered_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(windows, "REMEMBERED", 10)
    for number in range(50):
        take(Charge(Limit("test", 0, 60), str(number)))
    assert len(windows._full) == 10


# --- Without Valkey


def test_without_valkey_everybody_is_let_through_and_that_is_counted(settings: Any) -> None:
    settings.RATE_LIMIT = settings.AUTH_FAIL_LIMIT = 2
    workspace = WorkspaceFactory()
    agent = agent_of(workspace.pk)
    before = counted("molecule_rate_limit_backend_errors_total")
    with valkey_away():
        for _ in range(4):
            answer = admin().get("/workspaces")
            assert answer.status_code == 200
            assert [answer[name] for name in NAMES] == ["2", "2", "60"]
            assert beat(agent, workspace).status_code == 200
            assert anonymous().get("/workspaces").status_code == 401
    windows.forget_everything()
    assert counted("molecule_rate_limit_backend_errors_total") - before >= 8
    assert admin().get("/workspaces")["X-RateLimit-Remaining"] == "1"


# --- Bearers that are none of ours


def test_a_repeated_junk_bearer_costs_statements_once() -> None:
    Api("junk").get("/workspaces")
    with CaptureQueriesContext(connection) as asked:
        assert Api("junk").get("/workspaces").status_code == 401
    assert len(asked) == 0


def test_a_valid_bearer_is_never_remembered() -> None:
    workspace = WorkspaceFactory()
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    path = f"/workspaces/{workspace.pk}/activity"
    assert Api(token).get(path).status_code == 200
    revoke_tokens(workspace_id=workspace.pk)
    assert Api(token).get(path).status_code == 401


def test_junk_is_remembered_within_bounds_and_for_seconds(monkeypatch: Any) -> None:
    monkeypatch.setattr(credentials, "MAX_JUNK", 20)
    for number in range(60):
        assert credentials.resolve(f"Bearer junk-{number}", "127.0.0.1").kind == "invalid"
    assert len(credentials._junk) == 20
    monkeypatch.setattr(credentials, "JUNK_S", -1.0)
    credentials.forget_junk()
    credentials.resolve("Bearer later", "127.0.0.1")
    with CaptureQueriesContext(connection) as asked:
        credentials.resolve("Bearer later", "127.0.0.1")
    assert len(asked) == 2


def test_the_operators_token_is_compared_before_junk_is(settings: Any) -> None:
    settings.ADMIN_TOKEN = "another"
    assert Api(ADMIN_TOKEN).get("/workspaces").status_code == 401
    settings.ADMIN_TOKEN = ADMIN_TOKEN
    assert Api(ADMIN_TOKEN).get("/workspaces").status_code == 200
