"""Files for a polling agent, through a request: what is stored, announced, and refused as a whole."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from activity import events
from activity.events import Frame
from tests.clients import Api, admin
from tests.outages import statements_fail
from tests.uploads.cases import NAMES, TYPES
from tests.uploads.requests import (
    BOUNDARY,
    END,
    Part,
    ack,
    body,
    bytes_of,
    content,
    field,
    id_of,
    inbox,
    nothing_is_stored,
    part,
    upload,
)
from uploads.limits import MAX_FIELDS, MAX_FILE_BYTES, MAX_FILES, MAX_REQUEST_BYTES
from uploads.models import PendingUpload
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
both = pytest.mark.usefixtures("storage")
committed = pytest.mark.django_db(transaction=True)

TWO = [Part("alpha.txt", b"first", "text/plain"), Part("beta.txt", b"the second", "text/plain")]


@both
def test_two_files_are_staged_in_order(polling: Workspace, agent: Api) -> None:
    answer = upload(agent, polling.pk, TWO)
    assert answer.status_code == 200, answer.content
    assert b'"files":[{"uri":"platform-pending:' in answer.content
    files = answer.json()["files"]
    assert [(one["name"], one["mimeType"], one["size"]) for one in files] == [
        ("alpha.txt", "text/plain", 5),
        ("beta.txt", "text/plain", 10),
    ]
    assert all(set(one) == {"uri", "name", "mimeType", "size"} for one in files)
    assert all(one["uri"].startswith(f"platform-pending:{polling.pk}/") for one in files)
    rows = PendingUpload.objects.all()
    assert {row.expires_at - row.created_at for row in rows} == {timedelta(hours=24)}
    assert {row.acked_at for row in rows} == {None}


@both
def test_the_inbox_hears_of_each_file(polling: Workspace, agent: Api) -> None:
    files = upload(admin(), polling.pk, TWO).json()["files"]
    rows = agent.get(f"/workspaces/{polling.pk}/activity", type="a2a_receive").json()[::-1]
    assert [row["method"] for row in rows] == ["chat_upload_receive"] * 2
    assert [row["summary"] for row in rows] == [
        "chat_upload_receive: alpha.txt",
        "chat_upload_receive: beta.txt",
    ]
    for row, file in zip(rows, files, strict=True):
        assert row["request_body"] == {"file_id": str(id_of(file["uri"])), **file}
        assert (row["source_id"], row["target_id"], row["status"]) == (None, str(polling.pk), "ok")
        assert "response_body" not in row
        assert "tool_trace" not in row
    assert rows[0]["seq"] < rows[1]["seq"]
    assert rows[0]["created_at"] < rows[1]["created_at"]
    assert agent.get(f"/workspaces/{polling.pk}/activity", source="canvas").json() == []


@both
@committed
def test_each_file_is_announced_once_it_is_stored(
    polling: Workspace, agent: Api, published: list[Frame]
) -> None:
    files = upload(agent, polling.pk, TWO).json()["files"]
    assert [frame.event for frame in published] == ["ACTIVITY_LOGGED"] * 2
    assert [frame.payload["request_body"]["uri"] for frame in published] == [one["uri"] for one in files]


@committed
def test_an_event_bus_that_fails_costs_nothing(
    polling: Workspace, agent: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*frames: Frame) -> None:
        raise RuntimeError("the bus is down")

    monkeypatch.setattr(events, "publish", broken)
    assert upload(agent, polling.pk, TWO).status_code == 200
    assert PendingUpload.objects.count() == len(inbox(polling.pk)) == 2


@pytest.mark.parametrize(("given", "stored"), NAMES)
def test_names_come_through_a_request_safe(polling: Workspace, agent: Api, given: str, stored: str) -> None:
    if set(given) & {"\r", "\n", "\x00"}:  # cannot stand in a header as they are
        head = f"Content-Disposition: form-data; name=\"files\"; filename*=UTF-8''{quote(given)}"
        raw = f"--{BOUNDARY}\r\n{head}\r\n\r\nx\r\n".encode() + END
    else:
        raw = body([Part(given, b"x")])
    answer = upload(agent, polling.pk, raw)
    assert answer.status_code == 200, answer.content
    assert [one["name"] for one in answer.json()["files"]] == [stored]
    assert PendingUpload.objects.get().filename == stored
    assert inbox(polling.pk)[0].summary == f"chat_upload_receive: {stored}"


def test_each_byte_that_is_no_text_counts_as_one_character(polling: Workspace, agent: Api) -> None:
    answer = upload(agent, polling.pk, [Part(b"a\xff\xfeb.txt", b"x")])
    assert answer.json()["files"][0]["name"] == "a__b.txt"


@pytest.mark.parametrize(
    ("given", "stored"), [case for case in TYPES if not set(case[0]) & {"\r", "\n", "\x00"}]
)
def test_types_come_through_a_request_safe(polling: Workspace, agent: Api, given: str, stored: str) -> None:
    answer = upload(agent, polling.pk, [Part("a.bin", b"x", given)])
    assert answer.json()["files"][0]["mimeType"] == stored


# --- Limits
# -------------------------------------------------------------------------------------------------------


@both
def test_a_file_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    polling: Workspace, agent: Api
) -> None:
    data = os.urandom(MAX_FILE_BYTES)
    (file,) = upload(agent, polling.pk, [Part("big.bin", data)]).json()["files"]
    assert file["size"] == MAX_FILE_BYTES
    assert bytes_of(content(agent, polling.pk, id_of(file["uri"]))) == data
    PendingUpload.objects.all().delete()
    refused = upload(agent, polling.pk, [Part("big ü.bin", data + b"x")])
    assert refused.status_code == 413
    told = refused.json()
    assert (told["filename"], told["max"]) == ("big ü.bin", MAX_FILE_BYTES)
    assert told["size"] >= MAX_FILE_BYTES + 1
    assert "exceeds per-file limit" in told["error"]
    assert not PendingUpload.objects.exists()


@committed
def test_one_file_too_large_refuses_all(polling: Workspace, agent: Api, published: list[Frame]) -> None:
    parts = [Part("good.txt", b"x"), Part("big.bin", bytes(MAX_FILE_BYTES + 1))]
    assert upload(agent, polling.pk, parts).status_code == 413
    assert nothing_is_stored()
    assert published == []


def test_a_declared_body_too_large_is_refused_before_it_is_read(polling: Workspace, agent: Api) -> None:
    answer = upload(agent, polling.pk, b"", CONTENT_LENGTH=str(MAX_REQUEST_BYTES + 1))
    assert (answer.status_code, answer.json()["max"]) == (413, MAX_REQUEST_BYTES)


def test_the_number_of_files_and_fields_is_limited(polling: Workspace, agent: Api) -> None:
    many = [Part(f"{number}.txt", b"x") for number in range(MAX_FILES)]
    assert upload(agent, polling.pk, many).status_code == 200
    assert len(inbox(polling.pk)) == MAX_FILES
    refused = upload(agent, polling.pk, [*many, Part("more.txt", b"x")])
    assert refused.status_code == 400
    assert "too many files" in refused.json()["error"]
    assert "64" in refused.json()["error"]
    fields = b"".join(field(f"f{number}", "x") for number in range(MAX_FIELDS))
    assert upload(agent, polling.pk, fields + body(TWO)).status_code == 200
    assert upload(agent, polling.pk, fields + field("more", "x") + body(TWO)).status_code == 400


@pytest.mark.parametrize(
    "raw",
    [
        field("text", "x") + END,
        body([Part("a.txt", b"x", field="file")]),
        field("files", "no filename") + END,
    ],
)
def test_a_body_without_files_is_refused(polling: Workspace, agent: Api, raw: bytes) -> None:
    answer = upload(agent, polling.pk, raw)
    assert answer.status_code == 400
    assert "no files field" in answer.json()["error"]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"garbage", None),
        (body(TWO), "multipart/form-data; boundary=another"),
        (body(TWO), "multipart/form-data"),
        (body(TWO), "text/plain"),
        (b'{"files":[]}', "application/json"),
        (part(TWO[0])[:-4], None),
        (part(TWO[0]) + part(TWO[1]), None),
        (part(TWO[0]) + part(TWO[1])[:-8], None),
        (b"--" + BOUNDARY.encode() + b"\r\nno header\r\n\r\nx\r\n" + END, None),
        (b"", None),
    ],
)
def test_a_malformed_or_cut_body_is_refused(
    polling: Workspace, agent: Api, raw: bytes, kind: str | None
) -> None:
    headers = {"content_type": kind} if kind else {}
    answer = upload(agent, polling.pk, raw, **headers)
    assert answer.status_code == 400
    assert "malformed multipart" in answer.json()["error"]
    assert nothing_is_stored()


def test_an_empty_file_is_named(polling: Workspace, agent: Api) -> None:
    answer = upload(agent, polling.pk, [TWO[0], Part("empty one.txt", b"")])
    assert (answer.status_code, answer.json()["filename"]) == (400, "empty one.txt")
    assert nothing_is_stored()


def test_what_waits_for_one_agent_is_limited(polling: Workspace, agent: Api, settings: Any) -> None:
    settings.PENDING_UPLOADS_MAX_BYTES_PER_WORKSPACE = 1024 * 1024
    large = [Part("a.bin", bytes(600_000))]
    (file,) = upload(agent, polling.pk, large).json()["files"]
    refused = upload(agent, polling.pk, large)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "300"
    assert (refused.json()["limit_bytes"], refused.json()["used_bytes"]) == (1024 * 1024, 600_000)
    ack(agent, polling.pk, id_of(file["uri"]))
    assert upload(agent, polling.pk, large).status_code == 200
    settings.PENDING_UPLOADS_MAX_BYTES_PER_WORKSPACE = 0
    assert upload(agent, polling.pk, large).status_code == 200


# --- All or nothing
# ------------------------------------------------------------------------------------------------------

THREE = [Part(f"{name}.txt", name.encode()) for name in ("one", "two", "three")]


@pytest.fixture
def refuse_two() -> Any:
    """The database refuses the second file: a real failure in the middle of a batch."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse_two() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN IF NEW.filename = 'two.txt' THEN RAISE EXCEPTION 'injected'; END IF; RETURN NEW; END$$"
        )
        cursor.execute(
            "CREATE TRIGGER refuse_two BEFORE INSERT ON pending_uploads"
            " FOR EACH ROW EXECUTE FUNCTION refuse_two()"
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION IF EXISTS refuse_two CASCADE")


@both
@committed
def test_a_storage_that_fails_on_the_second_of_three_stores_none_and_the_retry_three(
    polling: Workspace, agent: Api, published: list[Frame], refuse_two: None
) -> None:
    answer = upload(agent, polling.pk, THREE)
    assert (answer.status_code, answer.json()) == (500, {"error": "could not stage files"})
    assert nothing_is_stored()
    assert published == []
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION refuse_two CASCADE")
    assert upload(agent, polling.pk, THREE).status_code == 200
    assert PendingUpload.objects.count() == len(inbox(polling.pk)) == 3


@both
@committed
def test_an_inbox_that_fails_on_the_second_row_takes_the_bytes_back(
    polling: Workspace, agent: Api, published: list[Frame]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE activity_logs ADD CONSTRAINT injected CHECK (summary NOT LIKE '%two.txt')"
        )
    try:
        answer = upload(agent, polling.pk, THREE)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE activity_logs DROP CONSTRAINT injected")
    assert (answer.status_code, answer.json()) == (500, {"error": "could not stage files"})
    assert nothing_is_stored()
    assert published == []


@both
@committed
def test_a_workspace_purged_meanwhile_is_unknown(
    polling: Workspace, agent: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uploads.services import staging

    real = staging.files.prepare_batch

    def purged_first(*args: Any, **kwargs: Any) -> Any:
        Workspace.objects.filter(pk=polling.pk).delete()
        return real(*args, **kwargs)

    monkeypatch.setattr(staging.files, "prepare_batch", purged_first)
    answer = upload(agent, polling.pk, TWO)
    assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})
    assert nothing_is_stored()


def test_a_lookup_that_fails_is_not_taken_for_an_unknown_workspace(polling: Workspace) -> None:
    with statements_fail('FROM "workspaces"'):
        assert upload(admin(), polling.pk, TWO).status_code == 500


# --- Who and where
# -------------------------------------------------------------------------------------------------------


def test_an_id_in_capitals_is_the_same_workspace(polling: Workspace, agent: Api) -> None:
    (file, _) = upload(agent, str(polling.pk).upper(), TWO).json()["files"]
    assert file["uri"].startswith(f"platform-pending:{polling.pk}/")
    one = str(id_of(file["uri"])).upper()
    assert bytes_of(content(agent, str(polling.pk).upper(), one)) == b"first"
    assert ack(agent, str(polling.pk).upper(), one).content == b'{"acked":true}'


def test_unknown_and_impossible_ids(polling: Workspace) -> None:
    assert upload(admin(), uuid4(), TWO).json() == {"error": "workspace not found"}
    assert upload(admin(), "not-an-id", TWO).status_code == 400
    Workspace.objects.filter(pk=polling.pk).update(status="removed")
    assert upload(admin(), polling.pk, TWO).status_code == 404


@both
def test_a_file_for_the_user_stays_out_of_the_agents_inbox(polling: Workspace, agent: Api) -> None:
    (file, _) = upload(agent, polling.pk, TWO, "?direction=to_user").json()["files"]
    one = id_of(file["uri"])
    assert inbox(polling.pk) == []
    assert agent.get(f"/workspaces/{polling.pk}/pending-uploads").json() == {"files": []}
    assert bytes_of(content(admin(), polling.pk, one)) == b"first"
    assert content(agent, polling.pk, one, include_acked=1).status_code == 404
    assert ack(agent, polling.pk, one).status_code == 404


def test_the_budget_of_statements_does_not_depend_on_the_files(polling: Workspace, agent: Api) -> None:
    upload(agent, polling.pk, TWO)  # the token's stamp
    counts = []
    for parts in (TWO[:1], [Part(f"{number}.txt", b"x") for number in range(30)]):
        with CaptureQueriesContext(connection) as captured:
            assert upload(agent, polling.pk, parts).status_code == 200
        counts.append([one["sql"] for one in captured if "SAVEPOINT" not in one["sql"]])
    assert len(counts[0]) == len(counts[1]) <= 8, counts


def test_limits_are_public() -> None:
    answer = Api().get("/uploads/limits")
    assert answer.json() == {
        "per_file_bytes": 26_214_400,
        "per_request_bytes": 52_428_800,
        "max_attachments_per_message": 64,
    }
    assert answer.headers["Cache-Control"] == "public, max-age=300"
