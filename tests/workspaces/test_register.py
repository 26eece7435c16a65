"""POST /registry/register."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token
from activity.models import ActivityLog, StructureEvent
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces import hooks
from workspaces.cache import alive_key, internal_url_key, runtime_key, url_key
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


# --- Cards and addresses


def test_a_card_that_is_too_large_or_cannot_be_stored_is_refused():
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    too_large = register(agent, row, url=PUBLIC, agent_card={"name": "x" * (256 * 1024)})
    assert (too_large.status_code, too_large.json()) == (
        400, {"error": "agent_card must be at most 262144 bytes"},
    )  # fmt: skip
    assert register(agent, row, url=PUBLIC, agent_card={"a": {"b": "\x00"}}).status_code == 400
    assert register(agent, row, url=PUBLIC + "\x00").json() == {"error": "invalid request body"}
    row.refresh_from_db()
    assert (row.agent_card, row.url) == (None, None)


def test_the_cards_own_address_is_judged_too():
    row = WorkspaceFactory()
    agent = agent_of(row.pk)
    bad = {"name": "Ada", "url": "http://169.254.169.254/"}
    answer = register(agent, row, url=PUBLIC, agent_card=bad)
    assert (answer.status_code, answer.json()) == (
        400, {"error": "url targets a blocked address: link-local"},
    )  # fmt: skip
    assert register(agent, row, delivery_mode="poll", agent_card=bad).status_code == 200
    row.refresh_from_db()
    assert "url" not in row.agent_card


def test_the_cards_address_serves_where_none_is_given():
    row = WorkspaceFactory()
    register(agent_of(row.pk), row, agent_card={"name": "Ada", "url": PUBLIC})
    row.refresh_from_db()
    assert row.url == PUBLIC


@pytest.mark.django_db(transaction=True)
def test_an_agents_addresses_are_cached_and_what_it_declared_before_is_forgotten(valkey):
    row = WorkspaceFactory(runtime=EXTERNAL)
    agent = agent_of(row.pk)
    valkey.set(runtime_key(row.pk), b'{"capabilities":{"status_mgmt":true}}')
    register(agent, row, url=PUBLIC)
    assert valkey.get(url_key(row.pk)) == valkey.get(internal_url_key(row.pk)) == PUBLIC.encode()
    assert 0 < valkey.ttl(url_key(row.pk)) <= 300
    assert 170 < valkey.ttl(alive_key(row.pk)) <= 180
    assert not valkey.exists(runtime_key(row.pk))
    register(agent, row, delivery_mode="poll", url=PUBLIC)
    assert not valkey.exists(url_key(row.pk), internal_url_key(row.pk))


@pytest.mark.django_db(transaction=True)
def test_the_servers_own_addresses_are_cached_for_its_compute(valkey, monkeypatch):
    monkeypatch.setattr(hooks, "internal_address", [lambda row: f"http://ws-{row.pk}:8000"])
    row = WorkspaceFactory(url="http://127.0.0.1:32001", url_source=UrlSource.PLATFORM)
    register(agent_of(row.pk), row, url="http://container.invalid:8000")
    assert valkey.get(url_key(row.pk)) == b"http://127.0.0.1:32001"
    assert valkey.get(internal_url_key(row.pk)) == f"http://ws-{row.pk}:8000".encode()


def test_a_parked_workspace_is_not_marked_alive(valkey):
    row = WorkspaceFactory(status=Status.PAUSED)
    register(agent_of(row.pk), row, url=PUBLIC)
    assert not valkey.exists(alive_key(row.pk), url_key(row.pk))


# --- Who may register


def test_a_removed_workspace_is_gone_and_nothing_of_it_comes_back(published):
    row = WorkspaceFactory(status=Status.REMOVED)
    for api in (anonymous(), admin(), Api("junk")):
        answer = register(api, row, url=PUBLIC)
        assert (answer.status_code, set(answer.json())) == (410, {"error", "id", "hint"})
    assert not WorkspaceAuthToken.objects.exists()
    assert not StructureEvent.objects.exists()


def test_a_token_that_a_new_start_revoked_counts_as_none_while_it_starts():
    row = WorkspaceFactory(status=Status.PROVISIONING, generation=2)
    old = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=1)
    WorkspaceAuthToken.objects.update(revoked_at=timezone.now())
    assert "auth_token" in register(Api(old), row, url=PUBLIC).json()
    assert register(Api(old), row, url=PUBLIC).json() == {"error": "invalid workspace auth token"}


def test_a_start_that_has_timed_out_gives_no_token_any_more():
    row = WorkspaceFactory(
        status=Status.PROVISIONING, provision_deadline_at=timezone.now() - timedelta(seconds=1)
    )
    mint_token(workspace_id=row.pk, kind=TokenKind.API)
    WorkspaceAuthToken.objects.update(revoked_at=timezone.now())
    assert register(anonymous(), row, url=PUBLIC).status_code == 401


def test_two_different_bearers_name_nobody():
    row = WorkspaceFactory()
    token = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE)
    twice = Api(HTTP_AUTHORIZATION=f"Bearer {token}, Bearer {token}")
    assert register(twice, row, url=PUBLIC).status_code == 200
    other = Api(HTTP_AUTHORIZATION=f"Bearer {token}, Bearer other")
    assert register(other, row, url=PUBLIC).json() == {"error": "invalid workspace auth token"}


def test_in_the_hatch_an_unknown_id_needs_no_credential_and_only_once(settings):
    settings.ADMIN_TOKEN, settings.MOLECULE_DEV_OPEN, settings.MOLECULE_ENV = "", True, "development"
    body = {"id": str(uuid4()), "agent_card": {"name": "Ada"}, "url": PUBLIC}
    first = anonymous().post("/registry/register", body)
    assert (first.status_code, len(first.json()["auth_token"])) == (200, 43)
    again = anonymous().post("/registry/register", body)
    assert again.json() == {"error": "missing workspace auth token"}
    assert Api("junk").post("/registry/register", {**body, "id": str(uuid4())}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_of_two_first_contacts_the_slower_one_changes_nothing():
    row = WorkspaceFactory(status=Status.PROVISIONING)
    urls = ["https://8.8.8.8/one", "https://8.8.4.4/two"]
    answers = at_once(*[lambda url=url: register(anonymous(), row, url=url) for url in urls])
    assert sorted(answer.status_code for answer in answers) == [200, 401]
    row.refresh_from_db()
    assert row.url == urls[[answer.status_code for answer in answers].index(200)]


@pytest.mark.django_db(transaction=True)
def test_one_unknown_id_registered_twice_at_once_is_one_row():
    body = {"id": str(uuid4()), "agent_card": {"name": "Ada"}, "url": PUBLIC}
    answers = at_once(*[lambda: admin().post("/registry/register", body)] * 4)
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
    assert WorkspaceAuthToken.objects.live().count() == Workspace.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_write_that_fails_says_so_and_mints_nothing(monkeypatch):
    from workspaces.services import registration

    def broken(*given: Any, **named: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    monkeypatch.setattr(registration, "_store", broken)
    row = WorkspaceFactory(status=Status.PROVISIONING)
    answer = register(anonymous(), row, url=PUBLIC)
    assert (answer.status_code, answer.json()) == (500, {"error": "registration failed"})
    assert not WorkspaceAuthToken.objects.exists()


def test_without_its_secret_a_registration_still_counts(monkeypatch):
    from workspaces.services import inbound_secrets

    def broken(workspace_id: Any) -> str:
        raise DatabaseError("no")

    monkeypatch.setattr(inbound_secrets, "inbound_secret", broken)
    row = WorkspaceFactory()
    answer = register(agent_of(row.pk), row, url=PUBLIC)
    assert (answer.status_code, "platform_inbound_secret" in answer.json()) == (200, False)
