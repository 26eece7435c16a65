"""Reading a staged file: who may, when, with which headers, and what is recorded of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.clients import Api, admin, agent_of, anonymous
from tests.outages import statements_fail
from tests.uploads.factories import acked, exists, expired, row, staged
from tests.uploads.requests import bytes_of, content
from tests.workspaces.factories import WorkspaceFactory
from uploads.limits import MIB
from uploads.models import PendingUpload
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
both = pytest.mark.usefixtures("storage")
DATA = bytes(range(256)) * 5000  # more than one slice


@both
def test_the_bytes_and_their_headers(polling: Workspace, agent: Api) -> None:
    answer = content(agent, polling.pk, staged(polling.pk, DATA, filename="alpha.txt"))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert 'filename="alpha.txt"' in answer.headers["Content-Disposition"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert bytes_of(answer) == DATA


def test_a_page_is_never_shown_as_one_of_ours(polling: Workspace) -> None:
    answer = content(admin(), polling.pk, staged(polling.pk, b"<script>", mimetype="text/html"))
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_an_unknown_type_is_bytes(polling: Workspace, agent: Api) -> None:
    answer = content(agent, polling.pk, staged(polling.pk, mimetype=""))
    assert answer.headers["Content-Type"] == "application/octet-stream"


@both
def test_the_agents_complete_read_is_stamped_each_time(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk, DATA)
    assert row(one).fetched_at is None
    assert bytes_of(content(agent, polling.pk, one)) == DATA
    first = row(one).fetched_at
    assert first is not None
    assert bytes_of(content(agent, polling.pk, one)) == DATA
    second = row(one).fetched_at
    assert second is not None
    assert second > first


@both
def test_a_look_by_the_user_is_not_stamped(polling: Workspace) -> None:
    one = staged(polling.pk)
    bytes_of(content(admin(), polling.pk, one))
    assert row(one).fetched_at is None


@both
def test_a_read_that_stops_halfway_is_not_stamped(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk, DATA)
    with structlog.testing.capture_logs() as logs:
        pieces = content(agent, polling.pk, one)._iterator
        assert next(pieces)
        pieces.close()  # what a server does when its client has left
    assert row(one).fetched_at is None
    assert [entry["event"] for entry in logs] == ["pending_upload.fetch_aborted"]


def test_a_stamp_that_fails_costs_the_client_nothing(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)
    answer = content(agent, polling.pk, one)
    with statements_fail("fetched_at"), structlog.testing.capture_logs() as logs:
        assert bytes_of(answer) == b"some bytes"
    assert "pending_upload.mark_fetched_failed" in [one["event"] for one in logs]


# --- Who may read what
# ---------------------------------------------------------------------------------------------------


@both
def test_another_workspace_learns_nothing(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)
    other = WorkspaceFactory(delivery_mode="poll")
    stranger = agent_of(other.pk)
    with structlog.testing.capture_logs() as logs:
        foreign = content(stranger, other.pk, one)
    assert foreign.status_code == 404
    (event,) = [one for one in logs if one["event"] == "pending_upload.workspace_mismatch"]
    assert (event["row_workspace_id"], event["op"]) == (str(polling.pk), "fetch")
    assert content(stranger, polling.pk, one).status_code == 401
    assert content(anonymous(), polling.pk, one).status_code == 401
    assert content(agent, polling.pk, "not-an-id").status_code == 400
    assert content(agent, "not-an-id", one).status_code == 400


@both
def test_every_reason_gives_the_same_answer(polling: Workspace, agent: Api) -> None:
    foreign = staged(WorkspaceFactory().pk)
    reasons = [uuid4(), foreign, expired(staged(polling.pk)), acked(staged(polling.pk))]
    answers = [content(agent, polling.pk, one) for one in reasons]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1


@both
def test_after_the_acknowledgement_the_user_still_sees_it(polling: Workspace, agent: Api) -> None:
    one = acked(staged(polling.pk))
    assert content(agent, polling.pk, one).status_code == 404
    assert content(agent, polling.pk, one, include_acked=0).status_code == 404
    assert bytes_of(content(agent, polling.pk, one, include_acked=1)) == b"some bytes"
    assert bytes_of(content(agent, polling.pk, one, include_acked="true")) == b"some bytes"
    assert bytes_of(content(admin(), polling.pk, one)) == b"some bytes"
    assert row(one).fetched_at is None
    expired(one)
    assert content(admin(), polling.pk, one).status_code == 404


@both
def test_without_new_staging_old_files_are_still_served(
    polling: Workspace, agent: Api, settings: Any
) -> None:
    one = staged(polling.pk)
    settings.PENDING_UPLOADS_BACKEND = "off"
    assert bytes_of(content(agent, polling.pk, one)) == b"some bytes"
    path = f"/workspaces/{polling.pk}/pending-uploads/{one}/ack"
    assert agent.post(path).json() == {"acked": True}


# --- Races and failures
# --------------------------------------------------------------------------------------------------


@both
def test_a_row_removed_while_a_slow_client_reads_is_delivered_whole(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk, DATA)
    answer = content(agent, polling.pk, one)
    pieces = iter(answer.streaming_content)
    begun = next(pieces)
    PendingUpload.objects.filter(pk=one).delete()
    assert begun + b"".join(pieces) == DATA


def test_a_row_removed_before_the_first_byte_is_gone(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk, DATA)

    def remove_between_slices(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        found = execute(sql, params, many, context)
        if "substring" in sql and exists(one):
            PendingUpload.objects.filter(pk=one).delete()
        return found

    with connection.execute_wrapper(remove_between_slices):
        assert content(agent, polling.pk, one).status_code == 404


def test_a_slice_that_cannot_be_read_is_our_failure(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)
    with statements_fail("substring"), structlog.testing.capture_logs() as logs:
        answer = content(agent, polling.pk, one)
    assert (answer.status_code, answer.json()) == (500, {"error": "could not read the file"})
    assert "pending_upload.storage_error" in [one["event"] for one in logs]


def test_a_read_keeps_to_its_statements(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk, bytes(3 * MIB))
    content(agent, polling.pk, one)  # the token's stamp
    with CaptureQueriesContext(connection) as captured:
        bytes_of(content(agent, polling.pk, one))
    assert len(captured) <= 4 + 3


def test_a_hostile_name_starts_no_line_of_the_log(
    polling: Workspace, agent: Api, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    one = staged(polling.pk, filename="a\nevil pending_upload.staged")
    bytes_of(content(agent, polling.pk, one))
    printed = capsys.readouterr().out + capsys.readouterr().err
    assert not [line for line in printed.splitlines() if line.startswith("evil")]
