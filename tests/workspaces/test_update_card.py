"""POST /registry/update-card."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from activity.models import StructureEvent
from tests.clients import Api, admin, agent_of, anonymous
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db
CARD = {"name": "Ada", "skills": []}


def update(api: Api, row: Any, card: Any = CARD) -> Any:
    body = {"workspace_id": str(getattr(row, "pk", row)), "agent_card": card}
    return api.post("/registry/update-card", body)


def test_the_card_is_replaced_and_announced():
    row = WorkspaceFactory(agent_card={"name": "before"})
    answer = update(agent_of(row.pk), row)
    assert (answer.status_code, answer.json()) == (200, {"status": "updated"})
    row.refresh_from_db()
    assert row.agent_card == CARD
    event = StructureEvent.objects.get()
    assert (event.event_type, event.payload) == ("AGENT_CARD_UPDATED", {"agent_card": CARD})


def test_the_canvas_edits_a_card_with_its_own_credential():
    row = WorkspaceFactory()
    agent_of(row.pk)  # the workspace has a token of its own
    assert update(admin(), row).status_code == 200
    assert update(anonymous(), row).json() == {"error": "missing workspace auth token"}
    assert update(agent_of(WorkspaceFactory().pk), row).json() == {"error": "invalid workspace auth token"}
    assert update(Api("junk"), row).status_code == 401


def test_a_workspace_that_never_had_a_token_may_come_without_one():
    assert update(anonymous(), WorkspaceFactory()).status_code == 200


@pytest.mark.parametrize("api", [admin(), anonymous()])
def test_removal_and_absence_are_told_before_the_credential(api):
    gone = WorkspaceFactory(status=Status.REMOVED)
    answer = update(api, gone)
    assert (answer.status_code, set(answer.json())) == (410, {"error", "id", "hint"})
    assert update(api, uuid4()).json() == {"error": "workspace not found"}
    assert not StructureEvent.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"workspace_id": str(uuid4())},
        {"workspace_id": "x", "agent_card": {}},
        {"workspace_id": 7, "agent_card": {}},
        {"workspace_id": str(uuid4()), "agent_card": "Ada"},
        {"workspace_id": str(uuid4()), "agent_card": {"a": [{"b\x00": 1}]}},
        ["Ada"],
    ],
)
def test_a_malformed_body_is_refused(body):
    answer = admin().post("/registry/update-card", body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://10.0.0.1/", "ftp://8.8.8.8", {"a": 1}, 7])
def test_an_address_nobody_may_call_is_refused(url):
    row = WorkspaceFactory()
    answer = update(admin(), row, {**CARD, "url": url})
    assert (answer.status_code, answer.json()) == (400, {"error": "workspace URL not allowed"})
    row.refresh_from_db()
    assert row.agent_card is None
    assert update(admin(), row, {**CARD, "url": "https://8.8.8.8/a2a"}).status_code == 200
    assert update(admin(), row, {**CARD, "url": ""}).status_code == 200


def test_a_card_has_a_largest_size():
    row = WorkspaceFactory()
    fits = {"name": "x" * (256 * 1024 - len('{"name":""}'))}
    assert update(admin(), row, fits).status_code == 200
    answer = update(admin(), row, {"name": fits["name"] + "x"})
    assert (answer.status_code, answer.json()) == (400, {"error": "agent_card must be at most 262144 bytes"})


@pytest.mark.django_db(transaction=True)
def test_a_write_that_fails_says_so_and_announces_nothing(monkeypatch):
    from workspaces.services import cards

    def broken(*given: Any, **named: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    monkeypatch.setattr(cards, "update_returning", broken)
    row = WorkspaceFactory()
    answer = update(admin(), row)
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to update card"})
    assert Workspace.objects.get(pk=row.pk).agent_card is None
    assert not StructureEvent.objects.exists()
