"""Acknowledging a file, and the list of those that wait."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import structlog
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.uploads.factories import acked, exists, expired, row, staged
from tests.uploads.requests import ack, content
from tests.workspaces.factories import WorkspaceFactory
from uploads.models import PendingUpload
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
both = pytest.mark.usefixtures("storage")


@both
def test_an_acknowledgement_holds_once_and_for_all(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)
    assert ack(agent, polling.pk, one).content == b'{"acked":true}'
    first = row(one).acked_at
    assert first is not None
    assert ack(agent, polling.pk, one).content == b'{"acked":true}'
    assert row(one).acked_at == first
    expired(one)
    assert ack(agent, polling.pk, one).status_code == 200


@both
@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_counts(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)
    answers = at_once(*[lambda: ack(agent_of(polling.pk), polling.pk, one) for _ in range(8)])
    assert {answer.status_code for answer in answers} == {200}
    stamp = row(one).acked_at
    assert stamp is not None
    ack(agent, polling.pk, one)
    assert row(one).acked_at == stamp


@both
def test_what_is_not_there_cannot_be_acknowledged(polling: Workspace, agent: Api) -> None:
    foreign = staged(WorkspaceFactory().pk)
    answers = [ack(agent, polling.pk, one) for one in (uuid4(), foreign, expired(staged(polling.pk)))]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.content for answer in answers} == {content(agent, polling.pk, uuid4()).content}
    assert row(foreign).acked_at is None
    assert ack(agent, polling.pk, "not-an-id").status_code == 400


@both
def test_a_file_swept_between_look_and_stamp_counts_as_acknowledged(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)

    def sweep_first(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "acked_at" in sql and exists(one):
            PendingUpload.objects.filter(pk=one).delete()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(sweep_first), structlog.testing.capture_logs() as logs:
        answer = ack(agent, polling.pk, one)
    assert answer.content == b'{"acked":true,"raced":true}'
    assert "pending_upload.ack_raced" in [one["event"] for one in logs]


def test_no_byte_of_the_file_is_read(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk, bytes(1_000_000))
    with CaptureQueriesContext(connection) as captured:
        ack(agent, polling.pk, one)
    touching = [query["sql"] for query in captured if "content" in query["sql"]]
    assert touching == []


def test_each_step_is_logged_once_with_its_fields(polling: Workspace, agent: Api) -> None:
    one = staged(polling.pk)
    with structlog.testing.capture_logs() as logs:
        ack(agent, polling.pk, one)
        ack(agent, polling.pk, one)
    events = [one for one in logs if one["event"].startswith("pending_upload.")]
    assert [one["event"] for one in events] == ["pending_upload.acked", "pending_upload.ack_repeat"]
    assert {"workspace_id", "file_id", "size", "name", "age_ms"} <= set(events[0])


# --- GET …/pending-uploads
# -------------------------------------------------------------------------------------------------


@both
def test_the_list_shows_what_waits_oldest_first(polling: Workspace, agent: Api) -> None:
    first, second = staged(polling.pk), staged(polling.pk, filename="b.txt", mimetype="")
    acked(staged(polling.pk))
    expired(staged(polling.pk))
    staged(WorkspaceFactory().pk)
    answer = agent.get(f"/workspaces/{polling.pk}/pending-uploads")
    files = answer.json()["files"]
    assert [one["file_id"] for one in files] == [str(first), str(second)]
    assert set(files[0]) == {
        "file_id",
        "uri",
        "name",
        "mimeType",
        "size",
        "created_at",
        "fetched_at",
        "expires_at",
    }
    assert files[0]["uri"] == f"platform-pending:{polling.pk}/{first}"
    assert files[0]["fetched_at"] is None
    limited = agent.get(f"/workspaces/{polling.pk}/pending-uploads", limit=1)
    assert len(limited.json()["files"]) == 1


@both
def test_two_agents_never_see_each_others_files(polling: Workspace, agent: Api) -> None:
    """Every route, both ways round: one's token on the other's path, and on its own with the other's file."""
    other = WorkspaceFactory(delivery_mode="poll")
    stranger, theirs, mine = agent_of(other.pk), staged(other.pk), staged(polling.pk)
    for caller, own, foreign, file in (
        (agent, polling.pk, other.pk, theirs),
        (stranger, other.pk, polling.pk, mine),
    ):
        for route in (
            "pending-uploads",
            f"pending-uploads/{file}/content",
            "chat/download?path=/workspace/a",
        ):
            assert caller.get(f"/workspaces/{foreign}/{route}").status_code == 401, route
        for route in ("chat/uploads", f"pending-uploads/{file}/ack"):
            assert caller.post(f"/workspaces/{foreign}/{route}").status_code == 401, route
        assert content(caller, own, file).status_code == 404
        assert content(caller, own, file, include_acked=1).status_code == 404
        assert ack(caller, own, file).status_code == 404
        assert str(file) not in caller.get(f"/workspaces/{own}/pending-uploads").content.decode()
    assert row(theirs).acked_at is row(mine).acked_at is None
    assert anonymous().get(f"/workspaces/{polling.pk}/pending-uploads").status_code == 401
    assert admin().get(f"/workspaces/{polling.pk}/pending-uploads").status_code == 200
