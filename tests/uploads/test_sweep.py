"""What nobody needs any more goes, in bounded batches, whatever fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.db import connection

from activity.metrics import render
from activity.models import BackgroundJob
from activity.tally import tally
from config.jobs import Job, beat_schedule
from tests.clients import Api
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.uploads.factories import acked, exists, expired, staged
from tests.uploads.requests import Part, ack, bytes_of, content, id_of, upload
from uploads import tasks
from uploads.models import PendingUpload
from uploads.services import sweep, sweeping
from uploads.services.sweeping import Swept
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
both = pytest.mark.usefixtures("storage")
HOUR = timedelta(hours=1)


def shown(outcome: str) -> int:
    (value,) = re.findall(rf'molecule_pending_uploads_swept_total{{outcome="{outcome}"}} (\d+)', render())
    return int(value)


@both
def test_an_acknowledged_file_is_kept_for_its_retention() -> None:
    one = acked(staged(uuid4()))
    assert sweep(HOUR) == Swept()
    assert exists(one)
    assert sweep(timedelta()) == Swept(acked=1)
    assert not exists(one)


@both
def test_an_acknowledged_file_is_kept_beyond_its_expiry() -> None:
    one = expired(acked(staged(uuid4())))
    assert sweep(HOUR) == Swept()
    assert exists(one)


@both
def test_only_what_is_due_goes() -> None:
    gone = [acked(staged(uuid4()), ago=2 * HOUR), expired(staged(uuid4()))]
    fresh = staged(uuid4())
    with structlog.testing.capture_logs() as logs:
        assert sweep(HOUR) == Swept(acked=1, expired=1)
        assert sweep(HOUR) == Swept()
    assert not any(exists(one) for one in gone)
    assert exists(fresh)
    (event,) = [one for one in logs if one["event"].startswith("pending_upload")]
    assert (event["event"], event["acked"], event["expired"], event["total"]) == (
        "pending_upload.swept",
        1,
        1,
        2,
    )


@both
def test_a_negative_retention_is_none() -> None:
    acked(staged(uuid4()))
    assert sweep(-HOUR) == Swept(acked=1)


@both
def test_counters_are_there_from_the_start_and_right_in_every_process() -> None:
    assert [shown(outcome) for outcome in ("acked", "expired", "error")] == [0, 0, 0]
    acked(staged(uuid4()))
    expired(staged(uuid4()))
    expired(staged(uuid4()))
    sweep(timedelta())
    assert [shown(outcome) for outcome in ("acked", "expired", "error")] == [1, 2, 0]


@pytest.mark.django_db(transaction=True)
def test_a_failed_cycle_is_counted_and_the_next_one_works(settings: Any) -> None:
    expired(staged(uuid4()))
    with statements_fail("DELETE FROM pending_uploads"):
        tasks.sweep()
    tally.flush()
    job = BackgroundJob.objects.get(pk=Job.PENDING_UPLOADS_SWEEPER)
    assert (job.runs, job.errors) == (1, 1)
    assert shown("error") == 1
    ticked = job.last_tick_at
    BackgroundJob.objects.update(last_started_at=None)
    tasks.sweep()
    job.refresh_from_db()
    assert (job.runs, job.errors) == (2, 1)
    assert job.last_tick_at > ticked
    assert not PendingUpload.objects.exists()
    assert (shown("error"), shown("expired")) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_batches_make_progress_though_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 10)
    monkeypatch.setattr(sweeping, "CYCLE_S", 0.0)
    for _ in range(25):
        expired(staged(uuid4()))
    left = []
    while not left or left[-1]:
        sweep(HOUR)
        left.append(PendingUpload.objects.count())
        assert len(left) < 10
    assert left == [15, 5, 0]


@both
@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_count_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 7)
    for _ in range(40):
        expired(staged(uuid4()))
    found = at_once(lambda: sweep(HOUR), lambda: sweep(HOUR))
    assert sum(one.expired for one in found) + sweep(HOUR).expired == 40
    assert shown("expired") == 40


def test_without_the_table_there_is_nothing_to_do() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pending_uploads RENAME TO not_yet")
    with structlog.testing.capture_logs() as logs:
        assert sweep(HOUR) == sweep(HOUR) == Swept()
    assert [one["event"] for one in logs] == ["pending_upload.sweep_disabled"]


@pytest.mark.django_db(transaction=True)
def test_both_arms_use_their_index_on_a_large_table() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pending_uploads (workspace_id, content, size_bytes, filename, acked_at, expires_at)"
            " SELECT gen_random_uuid(), 'x', 1, 'a', CASE WHEN n % 2 = 0 THEN now() END,"
            " now() + interval '1 hour' FROM generate_series(1, 100000) n"
        )
        cursor.execute("ANALYZE pending_uploads")
        for outcome, index in (
            ("acked", "idx_pending_uploads_acked"),
            ("expired", "idx_pending_uploads_expires"),
        ):
            cursor.execute(f"EXPLAIN {sweeping._ARMS[outcome]}", {"retention": HOUR, "batch": 500})
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert index in plan, plan
            assert "Seq Scan on pending_uploads" not in plan, plan


def test_an_idle_cycle_costs_two_statements(django_assert_max_num_queries: Any) -> None:
    sweep(HOUR)
    with django_assert_max_num_queries(3 + 4):  # savepoints of the test's transaction included
        sweep(HOUR)


@pytest.mark.parametrize(("given", "read"), [("", 3600), ("0", 3600), ("junk", 3600), ("-1", -1), ("60", 60)])
def test_the_retention_has_a_default_and_a_way_to_be_none(given: str, read: int) -> None:
    """Read as a process reads it when it starts."""
    code = "from config.settings import PENDING_UPLOADS_ACK_RETENTION_SECONDS as s; print(s)"
    environment = {**os.environ, "PENDING_UPLOADS_ACK_RETENTION_SECONDS": given}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) == read


def test_beat_rings_at_once_and_then_every_interval() -> None:
    entry = beat_schedule()[Job.PENDING_UPLOADS_SWEEPER]
    assert entry["schedule"] == 300
    assert entry["last_run_at"].year < 2020


def test_each_step_of_a_life_is_told_once_with_its_fields(polling: Workspace, agent: Api) -> None:
    with structlog.testing.capture_logs() as logs:
        (file,) = upload(agent, polling.pk, [Part("a.txt", b"bytes")]).json()["files"]
        upload(agent, polling.pk, [Part("bad name.txt", b"")])
        one = id_of(file["uri"])
        bytes_of(content(agent, polling.pk, one))
        ack(agent, polling.pk, one)
        sweep(timedelta())
    told = {entry["event"]: set(entry) for entry in logs if entry["event"].startswith("pending_upload.")}
    assert [entry["event"] for entry in logs] == [
        "pending_upload.staged",
        "pending_upload.rejected",
        "pending_upload.fetched",
        "pending_upload.acked",
        "pending_upload.swept",
    ]
    about = {"workspace_id", "file_id", "size", "name"}
    assert about | {"mimetype", "storage"} <= told["pending_upload.staged"]
    assert {"workspace_id", "reason", "size", "name", "limit"} <= told["pending_upload.rejected"]
    assert about | {"caller_class", "duration_ms"} <= told["pending_upload.fetched"]
    assert about | {"age_ms"} <= told["pending_upload.acked"]
    assert {"acked", "expired", "total"} <= told["pending_upload.swept"]
