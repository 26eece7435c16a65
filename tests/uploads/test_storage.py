"""The verbs under the routes, and what the database itself refuses."""

from __future__ import annotations

import io
from typing import Any
from uuid import uuid4

import pytest
from django.core.checks import run_checks
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from tests.uploads.factories import acked, expired, item, row, staged
from tests.workspaces.factories import WorkspaceFactory
from uploads import checks, limits
from uploads.limits import MAX_FILE_BYTES
from uploads.models import PendingUpload
from uploads.services import files
from uploads.storage import FileNotFound, InvalidItem, Item, ItemTooLarge, StorageError

pytestmark = pytest.mark.django_db
both = pytest.mark.usefixtures("storage")


@both
def test_a_file_goes_in_and_out_and_away() -> None:
    one = files.put(uuid4(), item(b"bytes", "a.txt"))
    found = files.get(one)
    assert (found.filename, found.mimetype, found.size_bytes) == ("a.txt", "text/plain", 5)
    assert b"".join(files.iter_chunks(found)) == b"bytes"
    files.mark_fetched(one)
    assert files.ack(one) is files.Acked.NOW
    assert files.ack(one) is files.Acked.BEFORE
    with pytest.raises(FileNotFound):
        files.get(one)
    with pytest.raises(FileNotFound):
        files.mark_fetched(one)
    assert files.get(one, include_acked=True).pk == one
    assert files.stat(one).acked_at is not None


@both
def test_what_is_not_there_is_not_found() -> None:
    unknown, late = uuid4(), expired(staged(uuid4()))
    for call in (files.get, files.stat, files.mark_fetched):
        with pytest.raises(FileNotFound):
            call(unknown)
    for verb in (files.get, files.mark_fetched, files.ack):
        with pytest.raises(FileNotFound):
            verb(late)
    assert files.ack(unknown) is files.Acked.VANISHED
    assert files.ack(expired(acked(staged(uuid4())))) is files.Acked.BEFORE


@both
def test_a_batch_keeps_its_order() -> None:
    ids = files.put_batch(uuid4(), [item(name=f"{number}.txt") for number in range(5)])
    assert [row(one).filename for one in ids] == [f"{number}.txt" for number in range(5)]


@both
def test_an_empty_batch_asks_nothing(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert files.put_batch(uuid4(), []) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Item(io.BytesIO(), 0, "a", ""), InvalidItem),
        (Item(io.BytesIO(b"x"), 1, "", ""), InvalidItem),
        (Item(io.BytesIO(b"x"), 1, "a" * 101, ""), InvalidItem),
        (Item(io.BytesIO(b"x"), MAX_FILE_BYTES + 1, "a", ""), ItemTooLarge),
    ],
)
@both
def test_a_bad_item_is_refused_before_anything_is_asked(
    bad: Item, error: type[InvalidItem], django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0), pytest.raises(error) as refused:
        files.put_batch(uuid4(), [item(), bad])
    assert refused.value.index == 1


@both
def test_a_file_shorter_than_it_says_is_refused_with_its_batch() -> None:
    with pytest.raises(StorageError):
        files.put_batch(uuid4(), [item(), Item(io.BytesIO(b"short"), 500, "a", "")])
    assert not PendingUpload.objects.exists()


@both
@pytest.mark.django_db(transaction=True)
def test_a_batch_belongs_to_the_callers_transaction() -> None:
    prepared = files.prepare_batch(uuid4(), [item(), item()])
    with pytest.raises(transaction.TransactionManagementError):
        files.insert_batch(prepared)
    with transaction.atomic():
        files.insert_batch(prepared)
        assert PendingUpload.objects.count() == 2
        transaction.set_rollback(True)
    assert not PendingUpload.objects.exists()


# --- What the database refuses
# -------------------------------------------------------------------------------------------


def bare_insert(**columns: Any) -> None:
    given = {"workspace_id": uuid4(), "content": b"x", "size_bytes": 1, "filename": "a"} | columns
    names, places = ", ".join(given), ", ".join(["%s"] * len(given))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO pending_uploads ({names}) VALUES ({places})", list(given.values()))


def test_a_bare_insert_is_a_whole_row_of_any_workspace() -> None:
    bare_insert()
    found = PendingUpload.objects.get()
    assert (found.storage, found.mimetype, found.is_outbound) == ("inline", "", False)
    assert found.expires_at - found.created_at == limits.STAGED_FOR


@pytest.mark.parametrize(
    "columns",
    [
        {"size_bytes": 0},
        {"size_bytes": MAX_FILE_BYTES + 1},
        {"filename": ""},
        {"filename": "a" * 101},
        {"storage": "tape"},
        {"content": None},
        {"object_key": "k"},
        {"storage": "s3", "object_key": "k"},
        {"storage": "s3", "content": None},
    ],
    ids=str,
)
def test_what_must_not_be_is_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        bare_insert(**columns)


def test_an_object_belongs_to_one_row() -> None:
    bare_insert(storage="s3", content=None, object_key="k")
    with pytest.raises(IntegrityError):
        bare_insert(storage="s3", content=None, object_key="k")


@both
def test_files_outlive_their_workspace() -> None:
    workspace = WorkspaceFactory()
    one = staged(workspace.pk)
    workspace.delete()
    assert row(one).workspace_id


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("idx_pending_uploads_workspace_unacked", "(workspace_id, created_at) WHERE (acked_at IS NULL)"),
        ("idx_pending_uploads_expires", "(expires_at) WHERE (acked_at IS NULL)"),
        ("idx_pending_uploads_acked", "(acked_at) WHERE (acked_at IS NOT NULL)"),
    ],
)
def test_each_query_has_its_index(name: str, definition: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = %s", [name])
        assert cursor.fetchone()[0].endswith(f"USING btree {definition}")


def test_bytes_are_stored_as_they_are() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT attstorage FROM pg_attribute"
            " WHERE attrelid = 'pending_uploads'::regclass AND attname = 'content'"
        )
        assert cursor.fetchone()[0] in {"e", b"e"}


def test_the_manager_leaves_the_bytes_where_they_are() -> None:
    staged(uuid4())
    assert "content" in PendingUpload.objects.filter(created_at__lte=Now()).get().get_deferred_fields()


# --- System checks
# -------------------------------------------------------------------------------------------------------


def ids_of_checks(**databases: Any) -> set[str]:
    return {one.id for one in run_checks(**databases) if (one.id or "").startswith("uploads.")}


def test_the_limits_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids_of_checks(databases=["default"]) == set()
    monkeypatch.setattr(checks, "MAX_FILE_BYTES", MAX_FILE_BYTES + 1)
    assert ids_of_checks(databases=["default"]) == {"uploads.E004"}
    monkeypatch.setattr(checks, "MAX_REQUEST_BYTES", MAX_FILE_BYTES + 1)
    assert ids_of_checks() == {"uploads.E003"}


def test_the_backend_is_one_that_there_is(settings: Any) -> None:
    settings.PENDING_UPLOADS_BACKEND = "tape"
    assert ids_of_checks() == {"uploads.E001"}
    settings.PENDING_UPLOADS_BACKEND = "s3"
    assert ids_of_checks() == {"uploads.E002"}
    settings.PENDING_UPLOADS_S3_BUCKET = "files"
    assert ids_of_checks() == set()
