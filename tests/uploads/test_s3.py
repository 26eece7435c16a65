"""What is special about objects: keys, intents, and what is left after a crash at any line."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.db import transaction
from django.db.models.functions import Now

from tests.clients import Api
from tests.outages import statements_fail
from tests.uploads.factories import acked, item, row, staged
from tests.uploads.requests import Part, bytes_of, content, id_of, upload
from tests.uploads.test_sweep import shown
from uploads.models import ObjectGC, PendingUpload
from uploads.services import files, objects, sweep
from uploads.services.sweeping import ObjectsLeft, Swept
from uploads.storage import StorageError
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
NOW = timedelta()


@pytest.fixture
def keys(s3: Any, settings: Any) -> Any:
    def listed() -> list[str]:
        answer = s3.list_objects_v2(Bucket=settings.PENDING_UPLOADS_S3_BUCKET)
        return sorted(one["Key"] for one in answer.get("Contents", []))

    return listed


def test_the_row_knows_the_object_and_the_object_knows_nothing(
    polling: Workspace, agent: Api, s3: Any, keys: Any, settings: Any
) -> None:
    (file,) = upload(agent, polling.pk, [Part("secret plan.txt", b"bytes", "text/plain")]).json()["files"]
    one = row(id_of(file["uri"]))
    assert (one.storage, one.content) == ("s3", None)
    assert keys() == [f"pending-uploads/v1/{polling.pk}/{one.pk}"] == [one.object_key]
    found = s3.get_object(Bucket=settings.PENDING_UPLOADS_S3_BUCKET, Key=one.object_key)
    assert found["ContentType"] == "application/octet-stream"
    assert found["ServerSideEncryption"] == "AES256"
    assert found["Metadata"] == {}
    assert not ObjectGC.objects.exists()


def test_encryption_can_be_left_to_the_bucket(s3: Any, settings: Any) -> None:
    settings.PENDING_UPLOADS_S3_SSE = ""
    one = row(files.put(uuid4(), item()))
    found = s3.get_object(Bucket=settings.PENDING_UPLOADS_S3_BUCKET, Key=one.object_key)
    assert found["Body"].read() == b"some bytes"


def test_a_row_is_read_where_it_is_whatever_is_configured(
    polling: Workspace, agent: Api, s3: Any, keys: Any, settings: Any
) -> None:
    far = staged(polling.pk, b"far")
    settings.PENDING_UPLOADS_BACKEND = "postgres"
    near = staged(polling.pk, b"near")
    settings.PENDING_UPLOADS_BACKEND = "off"
    assert bytes_of(content(agent, polling.pk, far)) == b"far"
    assert bytes_of(content(agent, polling.pk, near)) == b"near"
    acked(far)
    acked(near)
    assert sweep(NOW) == Swept(acked=2)
    assert keys() == []


def test_an_object_that_is_gone_is_our_failure(
    polling: Workspace, agent: Api, s3: Any, settings: Any
) -> None:
    one = staged(polling.pk)
    s3.delete_object(Bucket=settings.PENDING_UPLOADS_S3_BUCKET, Key=row(one).object_key)
    with structlog.testing.capture_logs() as logs:
        answer = content(agent, polling.pk, one)
    assert (answer.status_code, answer.json()) == (500, {"error": "could not read the file"})
    assert "pending_upload.storage_error" in [one["event"] for one in logs]


def test_a_store_that_is_away_stages_nothing(polling: Workspace, agent: Api, s3: Any, settings: Any) -> None:
    settings.PENDING_UPLOADS_S3_BUCKET = "another-bucket"
    answer = upload(agent, polling.pk, [Part("a.txt", b"x"), Part("b.txt", b"x")])
    assert (answer.status_code, answer.json()) == (500, {"error": "could not stage files"})
    assert not PendingUpload.objects.exists()
    assert ObjectGC.objects.filter(not_before__lte=Now()).count() == 2


# --- Crashes
# ----------------------------------------------------------------------------------------------------


def test_a_crash_after_the_object_and_before_the_row_leaves_no_object(s3: Any, keys: Any) -> None:
    files.prepare_batch(uuid4(), [item(), item()])  # and here the process dies
    assert len(keys()) == 2
    assert not PendingUpload.objects.exists()
    assert sweep(NOW) == Swept()
    assert len(keys()) == 2  # somebody may still be at it
    ObjectGC.objects.update(not_before=Now() - timedelta(seconds=1))
    sweep(NOW)
    assert keys() == []
    assert not ObjectGC.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_failed_transaction_makes_its_objects_due_at_once(
    polling: Workspace, agent: Api, s3: Any, keys: Any
) -> None:
    with statements_fail('INSERT INTO "activity_logs"'):
        assert upload(agent, polling.pk, [Part("a.txt", b"x"), Part("b.txt", b"x")]).status_code == 500
    assert len(keys()) == 2
    sweep(NOW)
    assert keys() == []


@pytest.mark.django_db(transaction=True)
def test_what_the_sweep_has_claimed_cannot_become_a_row(s3: Any, keys: Any) -> None:
    """The upload took hours: the sweep owns the object, though it has not removed it yet."""
    prepared = files.prepare_batch(uuid4(), [item()])
    ObjectGC.objects.update(not_before=Now() - timedelta(seconds=1))
    assert objects._claim()
    with pytest.raises(StorageError), transaction.atomic():
        files.insert_batch(prepared)
    assert not PendingUpload.objects.exists()


def test_a_swept_file_owes_its_object_from_the_same_commit_on(
    s3: Any, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acked(staged(uuid4()))
    monkeypatch.setattr("uploads.services.sweeping.remove_objects", lambda: True)  # dies before that
    assert sweep(NOW) == Swept(acked=1)
    assert (len(keys()), ObjectGC.objects.count()) == (1, 1)
    monkeypatch.undo()
    assert objects.remove_objects()
    assert (keys(), ObjectGC.objects.count()) == ([], 0)


def test_an_object_that_is_not_there_counts_as_removed(s3: Any) -> None:
    ObjectGC.objects.create(object_key="never/was", not_before=Now())
    assert objects.remove_objects()
    assert not ObjectGC.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_object_that_the_store_keeps_is_tried_again_later(s3: Any, keys: Any, settings: Any) -> None:
    from activity.tally import tally

    acked(staged(uuid4()))
    bucket, settings.PENDING_UPLOADS_S3_BUCKET = settings.PENDING_UPLOADS_S3_BUCKET, "another-bucket"
    with pytest.raises(ObjectsLeft):
        sweep(NOW)
    tally.flush()
    assert (shown("acked"), shown("error")) == (1, 1)
    (owed,) = ObjectGC.objects.all()
    assert owed.attempts == 1
    assert owed.last_error
    assert timedelta(seconds=100) < owed.not_before - owed.created_at <= timedelta(minutes=2, seconds=20)
    sweep(NOW)  # not due
    settings.PENDING_UPLOADS_S3_BUCKET = bucket
    assert len(keys()) == 1
    ObjectGC.objects.update(not_before=Now() - timedelta(seconds=1))
    sweep(NOW)
    assert keys() == []


def test_the_delays_end_at_six_hours() -> None:
    ObjectGC.objects.create(object_key="k", not_before=Now() - timedelta(seconds=1), attempts=40)
    assert objects._claim() == ["k"]
    (owed,) = ObjectGC.objects.all()
    assert owed.not_before - owed.created_at <= timedelta(hours=6, seconds=20)
