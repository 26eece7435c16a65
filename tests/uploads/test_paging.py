"""The feed an agent reads with a cursor: every file exactly once, whatever else is written meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection

from tests.activity.factories import received
from tests.clients import Api, admin
from tests.conftest import at_once
from tests.uploads.requests import Part, inbox, upload
from uploads.limits import MAX_FILES
from uploads.services import staging
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def page(agent: Api, workspace: Workspace, cursor: str) -> list[Any]:
    params = {"type": "a2a_receive", "since_id": cursor, "limit": 10}
    rows: list[Any] = agent.get(f"/workspaces/{workspace.pk}/activity", **params).json()
    return rows


def test_every_file_is_read_once_in_order_beside_another_writer(polling: Workspace, agent: Api) -> None:
    first = received(polling)

    def send() -> Any:
        return upload(admin(), polling.pk, [Part(f"{number}.txt", b"x") for number in range(MAX_FILES)])

    seen: list[Any] = []
    _, answer, _ = at_once(
        lambda: [received(polling) for _ in range(30)],
        send,
        lambda: upload(admin(), polling.pk, [Part("z", b"x")]),
    )
    assert answer.status_code == 200
    cursor = str(first.pk)
    while rows := page(agent, polling, cursor):
        seen += rows
        cursor = rows[-1]["id"]
    names = [row["request_body"]["name"] for row in seen if row["method"] == "chat_upload_receive"]
    assert [name for name in names if name != "z"] == [f"{number}.txt" for number in range(MAX_FILES)]
    assert names.count("z") == 1
    assert len(seen) == 30 + MAX_FILES + 1
    assert [row["seq"] for row in seen] == sorted({row["seq"] for row in seen})


def test_a_file_that_takes_long_is_not_skipped_by_the_cursor(
    polling: Workspace, agent: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows get their place when they are committed, not when the upload began."""
    first = received(polling)
    entered, go_on = threading.Event(), threading.Event()
    real = staging.files.insert_batch

    def slow(*args: Any) -> Any:
        entered.set()
        assert go_on.wait(20)
        return real(*args)

    monkeypatch.setattr(staging.files, "insert_batch", slow)

    def send() -> None:
        upload(admin(), polling.pk, [Part("slow.txt", b"x")])
        connection.close()

    sender = threading.Thread(target=send)
    sender.start()
    assert entered.wait(20)
    other = received(polling)
    rows = page(agent, polling, str(first.pk))
    assert [row["id"] for row in rows] == [str(other.pk)]
    go_on.set()
    sender.join()
    (late,) = page(agent, polling, rows[-1]["id"])
    assert late["request_body"]["name"] == "slow.txt" == inbox(polling.pk)[0].request_body["name"]
