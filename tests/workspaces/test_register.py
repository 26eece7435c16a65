"""POST /registry/register."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token
from activity.models import ActivityLog, StructureEvent
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, UrlSource, Workspace

pytestmark = pytest.mark.django_db
PUBLIC = "https://8.8.8.8/agent"


def register(api: Api, row: Workspace, **body: Any) -> Any:
    return api.post("/registry/register", {"id": str(row.pk), "agent_card": {"name": "Ada"}, **body})


def test_the_first_contact_gets_a_token_and_the_secret_and_later_ones_only_the_secret():
    row = WorkspaceFactory(status=Status.PROVISIONING, runtime="langgraph")
    first = register(anonymous(), row, url=PUBLIC).json()
    assert first["status"] == "registered"
    again = register(Api(first["auth_token"]), row, url=PUBLIC).json()
    assert "auth_token" not in again
    assert again["platform_inbound_secret"] == first["platform_inbound_secret"]
    refused = register(anonymous(), row, url="https://8.8.4.4/other")
    assert (refused.status_code, refused.json()) == (401, {"error": "missing workspace auth token"})
    row.refresh_from_db()
    assert (row.status, row.url) == (Status.ONLINE, PUBLIC)


@pytest.mark.django_db(transaction=True)
def test_two_first_contacts_at_once_leave_one_token():
    row = WorkspaceFactory(status=Status.PROVISIONING)
    answers = at_once(*[lambda: register(anonymous(), row, url=PUBLIC)] * 2)
    assert all(answer.status_code in {200, 401} for answer in answers)
    assert WorkspaceAuthToken.objects.live().filter(workspace=row).count() == 1
    assert (
        len({answer.json()["platform_inbound_secret"] for answer in answers if answer.status_code == 200})
        == 1
    )


def test_revoking_the_last_token_does_not_reopen_a_workspace():
    row = WorkspaceFactory()
    mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE)
    WorkspaceAuthToken.objects.update(revoked_at=timezone.now())
    assert register(anonymous(), row, url=PUBLIC).status_code == 401


def test_a_fresh_instance_fetches_its_first_token_while_it_is_being_started():
    row = WorkspaceFactory(status=Status.PROVISIONING, generation=2)
    mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=1)
    WorkspaceAuthToken.objects.update(revoked_at=timezone.now())
    assert "auth_token" in register(anonymous(), row, url=PUBLIC).json()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "x", "agent_card": {}},
        {"id": str(uuid4())},
        {"id": str(uuid4()), "agent_card": "Ada"},
        {"id": 7},
    ],
)
def test_a_body_without_id_and_card_is_refused(body):
    answer = admin().post("/registry/register", body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_push_needs_a_url_that_may_be_called(settings):
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    assert register(agent, row).json() == {"error": "url is required for push-mode workspaces"}
    assert register(agent, row, delivery_mode="webhook").status_code == 400
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "ftp://8.8.8.8/", "http://u:p@8.8.8.8/"):
        assert register(agent, row, url=url).status_code == 400
    settings.MOLECULE_DEPLOY_MODE = "saas"
    assert register(agent, row, url="http://10.0.0.1/").status_code == 200


def test_poll_needs_no_url_and_stores_none():
    row = WorkspaceFactory(url=None)
    answer = register(agent_of(row.pk), row, delivery_mode="poll", url="remote://no-inbound")
    assert answer.json()["delivery_mode"] == "poll"
    row.refresh_from_db()
    assert (row.url or "", row.delivery_mode_explicit) == ("", True)


def test_an_external_agent_that_names_no_mode_polls_unless_it_has_a_url():
    row = WorkspaceFactory(runtime=EXTERNAL, status=Status.AWAITING_AGENT)
    agent = agent_of(row.pk)
    assert register(agent, row, url="remote://no-inbound").json()["delivery_mode"] == "poll"
    assert register(agent, row, url=PUBLIC).json()["delivery_mode"] == "push"


def test_the_servers_own_url_stays_and_cannot_fail_the_registration():
    row = WorkspaceFactory(url="http://127.0.0.1:32001", url_source=UrlSource.PLATFORM)
    assert register(agent_of(row.pk), row, url="http://container.invalid:8000").status_code == 200
    row.refresh_from_db()
    assert (row.url, row.agent_card["name"]) == ("http://127.0.0.1:32001", "Ada")


def test_gaps_of_the_card_are_filled_from_the_row():
    row = WorkspaceFactory(name="Support", role="answers mail")
    register(agent_of(row.pk), row, url=PUBLIC, agent_card={"name": str(row.pk), "skills": []})
    row.refresh_from_db()
    assert row.agent_card == {
        "name": "Support",
        "description": "Support",
        "role": "answers mail",
        "skills": [],
    }


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATING, Status.HIBERNATED])
def test_a_parked_workspace_stays_parked(status, published):
    row = WorkspaceFactory(status=status)
    assert register(agent_of(row.pk), row, url=PUBLIC).status_code == 200
    row.refresh_from_db()
    assert (row.status, row.url) == (status, None)
    assert not StructureEvent.objects.exists()
    assert published == []


@pytest.mark.parametrize("status", [Status.PROVISIONING, Status.FAILED])
def test_old_compute_does_not_bring_a_restarting_workspace_online(status):
    row = WorkspaceFactory(status=status, generation=2, last_sample_error="boom")
    old = agent_of(row.pk, generation=1)
    assert register(old, row, url=PUBLIC).status_code == 200
    row.refresh_from_db()
    assert (row.status, row.url) == (status, None)
    register(agent_of(row.pk, generation=2), row, url=PUBLIC)
    row.refresh_from_db()
    assert (row.status, row.last_sample_error) == (Status.ONLINE, None)


def test_the_announcement_carries_what_was_stored(published):
    row = WorkspaceFactory(status=Status.OFFLINE)
    register(agent_of(row.pk), row, url=PUBLIC)
    event = StructureEvent.objects.get(event_type="WORKSPACE_ONLINE")
    assert set(event.payload) == {"url", "agent_card", "delivery_mode"}
    assert event.payload["url"] == PUBLIC
    assert not ActivityLog.objects.exists()


def test_a_stranger_cannot_put_an_agent_into_the_tree_but_an_operator_can():
    body = {"id": str(uuid4()), "agent_card": {"name": "Ada"}, "url": PUBLIC}
    stranger = anonymous().post("/registry/register", body)
    assert (stranger.status_code, stranger.json()) == (404, {"error": "workspace not found"})
    assert admin().post("/registry/register", body).status_code == 200
    row = Workspace.objects.get(pk=body["id"])
    assert (row.name, row.status, row.runtime, row.tier) == (body["id"], Status.ONLINE, EXTERNAL, 3)
