"""Which way a file goes: the table, and staging that is switched off or not migrated yet."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from config.errors import Unavailable, Unprocessable
from tests.clients import Api, admin
from tests.uploads.requests import Part, nothing_is_stored, upload
from tests.workspaces.factories import WorkspaceFactory
from uploads import delivery
from uploads.delivery import Target, Way, way_of
from workspaces.models import Workspace

URL = "http://agent.example"


def outcome(mode: str | None, url: str, is_wired: bool) -> str:
    try:
        return way_of(Target(uuid4(), mode, url, is_own_url=False), is_wired=is_wired).value
    except (Unavailable, Unprocessable) as refusal:
        return str(refusal.status)


@pytest.mark.parametrize(
    ("mode", "url", "is_wired", "expected"),
    [
        ("poll", "", True, "stage"),
        ("poll", URL, True, "stage"),
        ("poll", "", False, "422"),
        ("poll", URL, False, "forward"),
        ("push", URL, True, "forward"),
        ("push", URL, False, "forward"),
        ("push", "", True, "503"),
        ("push", "", False, "503"),
        (None, URL, True, "forward"),
        (None, "", True, "422"),
        ("", URL, True, "forward"),
        ("", "", False, "422"),
        ("POLL", "", True, "422"),
        ("carrier pigeon", URL, False, "forward"),
        ("carrier pigeon", "", True, "422"),
    ],
)
def test_the_mode_decides(mode: str | None, url: str, is_wired: bool, expected: str) -> None:
    assert outcome(mode, url, is_wired) == expected
    assert Way.STAGE.value == "stage"


PARTS = [Part("a.txt", b"x")]


@pytest.mark.django_db
def test_a_mode_of_an_older_schema_is_no_server_error() -> None:
    row = WorkspaceFactory()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE workspaces DROP CONSTRAINT workspaces_delivery_mode")
        cursor.execute("ALTER TABLE workspaces ALTER delivery_mode DROP NOT NULL")
        cursor.execute("UPDATE workspaces SET delivery_mode = NULL WHERE id = %s", [row.pk])
    answer = upload(admin(), row.pk, PARTS)
    assert answer.status_code == 422
    assert "callback URL" in answer.json()["error"]
    assert "push" in answer.json()["error"]
    assert "public URL" in answer.json()["detail"]
    assert nothing_is_stored()


@pytest.mark.django_db
def test_an_agent_in_push_mode_that_has_not_come_yet_is_waited_for() -> None:
    assert upload(admin(), WorkspaceFactory(delivery_mode="push").pk, PARTS).status_code == 503


@pytest.mark.django_db
def test_switched_off_staging_refuses_for_good(polling: Workspace, agent: Api, settings: Any) -> None:
    settings.PENDING_UPLOADS_BACKEND = "off"
    assert upload(agent, polling.pk, PARTS).status_code == 422
    assert nothing_is_stored()


@pytest.mark.django_db
def test_staging_begins_when_its_table_is_there(
    polling: Workspace, agent: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE pending_uploads RENAME TO not_yet")
    assert upload(agent, polling.pk, PARTS).status_code == 422
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE not_yet RENAME TO pending_uploads")
    assert upload(agent, polling.pk, PARTS).status_code == 422  # asked once a minute
    monkeypatch.setattr(delivery, "LOOK_AGAIN_S", 0.0)
    assert upload(agent, polling.pk, PARTS).status_code == 200
