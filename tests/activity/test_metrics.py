"""/metrics: who may read it, what it holds from the first moment, counters that are exact."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.test import Client

from activity.counters import count, label_text
from activity.http_metrics import count_request
from activity.hub import SOCKETS_KEY
from activity.metrics import COUNTERS
from activity.models import BackgroundJob, MetricCounter
from activity.tally import Tally, tally
from tests.activity.processes import environment
from tests.clients import admin, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.outages import database_away, valkey_away
from tests.workspaces.factories import WorkspaceFactory

PUBLIC = "198.51.100.7"


def exposition(**headers: Any) -> str:
    answer = Client(**headers).get("/metrics")
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def sample(series: str) -> float | None:
    for line in exposition().splitlines():
        name, _, value = line.rpartition(" ")
        if name == series:
            return float(value)
    return None


# --- Who may read


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.8", "192.168.3.4", "::1"])
def test_the_machine_and_its_network_may_read(valkey: Any, address: str) -> None:
    assert "molecule_" in exposition(REMOTE_ADDR=address)


@pytest.mark.django_db
def test_a_public_address_is_told_that_there_is_nothing(settings: Any) -> None:
    settings.METRICS_TOKEN = "of-the-scraper"
    for bearer in ({}, {"HTTP_AUTHORIZATION": "Bearer wrong"}):
        answer = Client(REMOTE_ADDR=PUBLIC, **bearer).get("/metrics")
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["of-the-scraper", ADMIN_TOKEN])
def test_from_a_public_address_a_token_is_needed(settings: Any, valkey: Any, token: str) -> None:
    settings.METRICS_TOKEN = "of-the-scraper"
    assert exposition(REMOTE_ADDR=PUBLIC, HTTP_AUTHORIZATION=f"Bearer {token}")


@pytest.mark.django_db
def test_an_unset_token_opens_nothing(settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert Client(REMOTE_ADDR=PUBLIC, HTTP_AUTHORIZATION="Bearer ").get("/metrics").status_code == 404


# --- What it holds


@pytest.mark.django_db
def test_every_family_is_described_from_the_first_moment(valkey: Any) -> None:
    MetricCounter.objects.all().delete()
    lines = exposition().splitlines()
    for family in COUNTERS:
        assert f"# TYPE {family.name} counter" in lines
        assert any(line.startswith(f"# HELP {family.name} ") for line in lines)
        for labels in family.initial:
            assert f"{family.name}{f'{{{labels}}}' if labels else ''} 0" in lines
    for line in (
        "molecule_event_publish_failures_total 0",
        "molecule_ws_clients_dropped_total 0",
        "molecule_dev_open 0",
        "molecule_websocket_connections_active 0",
    ):
        assert line in lines


@pytest.mark.django_db
def test_the_text_is_in_the_exposition_format(valkey: Any) -> None:
    count("molecule_restart_dropped_total", reason='odd "reason"\n\\')
    answer = admin().get("/metrics")
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    form = re.compile(r'^[a-z_0-9]+(\{[a-z_]+="(\\.|[^"\\\n])*"(,[a-z_]+="(\\.|[^"\\\n])*")*\})? \S+$')
    for line in answer.content.decode().splitlines():
        assert line.startswith("# ") or form.match(line), line


@pytest.mark.django_db
def test_a_time_keeps_its_seconds(valkey: Any) -> None:
    moment = datetime(2026, 1, 31, 12, 34, 56, 250_000, tzinfo=UTC)
    BackgroundJob.objects.create(name="health-sweep", last_success_at=moment)
    series = 'molecule_job_last_success_timestamp_seconds{job="health-sweep"}'
    assert sample(series) == moment.timestamp()


@pytest.mark.django_db
def test_open_sockets_are_summed_over_the_processes(valkey: Any) -> None:
    valkey.set(f"{SOCKETS_KEY}one", 3)
    valkey.set(f"{SOCKETS_KEY}two", 4)
    assert sample("molecule_websocket_connections_active") == 7


@pytest.mark.django_db
def test_an_absent_valkey_costs_only_its_own_gauge() -> None:
    with valkey_away():
        text = exposition()
    assert "molecule_event_publish_failures_total" in text


# --- Counters


def test_labels_are_sorted_and_escaped() -> None:
    assert label_text({"b": 'x"y', "a": "1\n\\"}) == 'a="1\\n\\\\",b="x\\"y"'


@pytest.mark.django_db(transaction=True)
def test_a_counter_is_exact_however_many_count_at_once() -> None:
    connection.close()

    def work() -> None:
        for _ in range(100):
            count("molecule_restart_coalesced_total")

    assert at_once(*[work] * 20) == [None] * 20
    assert MetricCounter.objects.get(name="molecule_restart_coalesced_total").value == 2000


# A process that counts from ten threads at once, as soon as it is told to.
COUNTING = """
import sys, threading
import django
django.setup()
from django.db import connection
from activity.counters import count

def work():
    for _ in range(200):
        count("molecule_restart_coalesced_total")
    connection.close()

print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work) for _ in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.django_db(transaction=True)
def test_a_counter_is_exact_over_fifty_threads_of_five_processes() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING], cwd=django_settings.BASE_DIR, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(5)
    ]  # fmt: skip
    try:
        assert [one.stdout.readline() for one in processes if one.stdout] == ["ready\n"] * 5
        for one in processes:
            one.communicate("go\n", timeout=90)
    finally:
        for one in processes:
            one.kill()
    assert [one.returncode for one in processes] == [0] * 5
    assert MetricCounter.objects.get(name="molecule_restart_coalesced_total").value == 10_000


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_was_not_counted() -> None:
    with pytest.raises(RuntimeError):
        with transaction.atomic():
            count("molecule_restart_coalesced_total")
            raise RuntimeError
    assert not MetricCounter.objects.exists()


# --- Requests


def requests(method: str, path: str, status: int) -> int:
    labels = f'method="{method}",path="{path}",status="{status}"'
    found = MetricCounter.objects.filter(name="molecule_http_requests_total", labels=labels).first()
    return found.value if found else 0


@pytest.fixture
def counted() -> Any:
    """Flushes what earlier tests left, then what this one counts."""
    tally.flush()
    MetricCounter.objects.all().delete()
    return tally.flush


@pytest.mark.django_db
def test_requests_are_counted_by_pattern_never_by_id(counted: Any) -> None:
    for _ in range(2):
        admin().get(f"/workspaces/{WorkspaceFactory().pk}/activity")
    anonymous().get("/workspaces")
    anonymous().get("/no/such/path")
    anonymous()._client.generic("BREW", "/health")
    anonymous()._client.generic("POST", "/health", b" " * 2_000_000)
    counted()
    assert requests("GET", "/workspaces/:id/activity", 200) == 2
    assert requests("GET", "/workspaces", 401) == 1
    assert requests("GET", "unmatched", 404) == 1
    assert requests("OTHER", "/health", 405) == 1
    assert requests("POST", "/health", 413) == 1


@pytest.mark.django_db
def test_the_time_spent_is_shown_in_seconds(counted: Any, valkey: Any) -> None:
    admin().get("/workspaces")
    counted()
    series = 'molecule_http_request_duration_seconds_total{method="GET",path="/workspaces",status="200"}'
    spent = sample(series)
    assert spent is not None
    assert 0 < spent < 5


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_flushed_is_kept_for_the_next_time(counted: Any) -> None:
    anonymous().get("/health")
    with database_away():
        counted()
        anonymous().get("/health")
    counted()
    assert requests("GET", "/health", 200) == 2


@pytest.mark.django_db(transaction=True)
def test_two_processes_add_up(rf: Any) -> None:
    from django.http import HttpResponse

    request = rf.get("/x")
    request.resolver_match = None
    processes = [Tally(), Tally()]
    for process in processes:
        count_request(request, HttpResponse(), 0.5, into=process)
    at_once(*[process.flush for process in processes])
    assert requests("GET", "unmatched", 200) == 2
