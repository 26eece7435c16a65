"""GET /registry/discover/:id and POST /registry/check-access."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from access.models import TokenKind
from access.services import mint_token
from tests.clients import Api, admin, anonymous
from tests.conftest import ADMIN_TOKEN
from tests.outages import database_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces import hooks
from workspaces.cache import forget, internal_url_key, remember_internal_url
from workspaces.models import EXTERNAL, DeliveryMode, Status, UrlSource, Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def team():
    """Two siblings under one parent, and a child of one of them."""
    top = WorkspaceFactory(name="top")
    return WorkspaceFactory(name="ada", parent=top), WorkspaceFactory(
        name="bob", parent=top, role="reads mail"
    )


def as_workspace(row: Workspace) -> Api:
    token = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=row.generation)
    return Api(token, HTTP_X_WORKSPACE_ID=str(row.pk))


def discover(caller: Workspace, target: Any) -> Any:
    return as_workspace(caller).get(f"/registry/discover/{getattr(target, 'pk', target)}")


def platform_run(row: Workspace, url: str = "http://127.0.0.1:32001") -> Workspace:
    Workspace.objects.filter(pk=row.pk).update(url=url, url_source=UrlSource.PLATFORM)
    row.refresh_from_db()
    return row


def external(row: Workspace, url: str | None, **fields: Any) -> Workspace:
    Workspace.objects.filter(pk=row.pk).update(runtime=EXTERNAL, url=url, **fields)
    row.refresh_from_db()
    return row


# --- Who may ask


def test_the_header_is_asked_for_before_any_credential():
    for api in (anonymous(), admin(), Api("junk")):
        answer = api.get(f"/registry/discover/{uuid4()}")
        assert (answer.status_code, answer.json()) == (400, {"error": "X-Workspace-ID header is required"})
    assert anonymous().get("/registry/discover/global").json() == {"error": "invalid workspace ID"}


def test_the_caller_is_proved_by_its_own_token(team):
    ada, bob = team
    path, claim = f"/registry/discover/{bob.pk}", str(ada.pk)
    missing = Api(HTTP_X_WORKSPACE_ID=claim).get(path)
    assert (missing.status_code, missing.json()) == (401, {"error": "missing workspace auth token"})
    others = mint_token(workspace_id=bob.pk, kind=TokenKind.INSTANCE)
    for token in (others, "junk"):
        refused = Api(token, HTTP_X_WORKSPACE_ID=claim).get(path)
        assert (refused.status_code, refused.json()) == (401, {"error": "invalid workspace auth token"})
    assert Api(others, HTTP_X_WORKSPACE_ID="nobody").get(path).status_code == 401
    assert Api(others, HTTP_X_WORKSPACE_ID="system:x").get(path).json() == {"error": "invalid caller ID"}


def test_an_operator_may_ask_for_any_caller(team):
    ada, bob = team
    platform_run(bob)
    as_ada = Api(ADMIN_TOKEN, HTTP_X_WORKSPACE_ID=str(ada.pk))
    assert as_ada.get(f"/registry/discover/{bob.pk}").status_code == 200
    for nobody in (str(uuid4()), "nobody"):
        answer = Api(ADMIN_TOKEN, HTTP_X_WORKSPACE_ID=nobody).get(f"/registry/discover/{bob.pk}")
        assert answer.json() == {"error": "not authorized to discover this workspace"}


def test_other_teams_and_unknown_ids_are_refused_alike(team):
    ada, _ = team
    stranger = WorkspaceFactory(name="cousin", parent=WorkspaceFactory(parent=WorkspaceFactory()))
    gone = WorkspaceFactory(name="gone", parent_id=ada.parent_id, status=Status.REMOVED)
    for target in (stranger, gone, uuid4()):
        answer = discover(ada, target)
        assert (answer.status_code, answer.json()) == (
            403, {"error": "not authorized to discover this workspace"},
        )  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_an_absent_database_is_no_bad_credential(team):
    ada, bob = team
    api = as_workspace(ada)
    with database_away():
        answer = api.get(f"/registry/discover/{bob.pk}")
    assert (answer.status_code, answer.json()["code"]) == (503, "platform_unavailable")


@pytest.mark.django_db(transaction=True)
def test_a_token_lookup_that_fails_admits_nobody(team):
    ada, bob = team
    calls = [
        lambda api: api.get(f"/registry/discover/{bob.pk}"),
        lambda api: api.get(f"/registry/{ada.pk}/peers"),
        lambda api: api.post("/registry/heartbeat", {"workspace_id": str(ada.pk)}),
        lambda api: api.post(
            "/registry/register", {"id": str(ada.pk), "agent_card": {}, "url": "https://8.8.8.8"}
        ),
        lambda api: api.post("/registry/update-card", {"workspace_id": str(ada.pk), "agent_card": {}}),
    ]
    api = as_workspace(ada)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE workspace_auth_tokens RENAME TO elsewhere")
    try:
        answers = [call(api) for call in calls]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO workspace_auth_tokens")
    assert [answer.status_code for answer in answers] == [503] * 5
    ada.refresh_from_db()
    assert (ada.last_heartbeat_at, ada.agent_card) == (None, None)


# --- Which url


def test_a_platform_run_target_is_reached_inside_its_network(team, monkeypatch, valkey):
    ada, bob = team
    platform_run(bob)
    monkeypatch.setattr(hooks, "internal_address", [lambda row: f"http://ws-{row.pk}:8000"])
    answer = discover(ada, bob)
    assert answer.json() == {
        "id": str(bob.pk), "url": f"http://ws-{bob.pk}:8000", "name": "bob", "role": "reads mail",
        "status": "online", "delivery_mode": "push",
    }  # fmt: skip
    assert 0 < valkey.ttl(internal_url_key(bob.pk)) <= 300
    remember_internal_url(bob.pk, "http://cached:8000")
    assert discover(ada, bob).json()["url"] == "http://cached:8000"


def test_without_a_network_of_its_own_it_is_the_stored_url(team):
    ada, bob = team
    assert discover(ada, platform_run(bob)).json()["url"] == "http://127.0.0.1:32001"


def test_a_target_that_is_not_there_is_unavailable(team):
    ada, bob = team
    platform_run(bob)
    Workspace.objects.filter(pk=bob.pk).update(status=Status.OFFLINE)
    forget(bob.pk)
    answer = discover(ada, bob)
    assert (answer.status_code, answer.json()) == (
        503, {"error": "workspace not available", "status": "offline"},
    )  # fmt: skip
    Workspace.objects.filter(pk=bob.pk).update(status=Status.DEGRADED, url="")
    assert discover(ada, bob).status_code == 503


def test_a_polling_target_and_one_without_an_address_have_no_url(team):
    ada, bob = team
    Workspace.objects.filter(pk=bob.pk).update(delivery_mode=DeliveryMode.POLL)
    assert (discover(ada, bob).status_code, discover(ada, bob).json()["url"]) == (200, "")
    assert discover(ada, external(bob, None, delivery_mode=DeliveryMode.PUSH)).json()["url"] == ""


def test_an_external_targets_url_is_judged_again(team):
    ada, bob = team
    assert discover(ada, external(bob, "https://8.8.8.8/a2a")).json()["url"] == "https://8.8.8.8/a2a"
    answer = discover(ada, external(bob, "http://169.254.169.254/"))
    assert (answer.status_code, answer.json()) == (503, {"error": "workspace URL failed safety check"})


def test_a_loopback_url_is_named_as_a_container_sees_it(team):
    ada, bob = team
    external(bob, "http://localhost:9000/a2a?x=1")
    assert discover(ada, bob).json()["url"] == "http://host.docker.internal:9000/a2a?x=1"
    external(ada, None)
    assert discover(ada, bob).json()["url"] == "http://localhost:9000/a2a?x=1"


def test_a_retired_target_is_followed_to_its_successor(team):
    ada, bob = team
    trail = [bob]
    for number in range(6):
        Workspace.objects.filter(pk=trail[-1].pk).update(status=Status.REMOVED)
        trail.append(platform_run(WorkspaceFactory(name=f"next {number}", parent_id=bob.parent_id)))
        Workspace.objects.filter(pk=trail[-2].pk).update(forwarded_to=trail[-1])
    assert discover(ada, trail[1]).json()["id"] == str(trail[6].pk)
    assert discover(ada, trail[0]).status_code == 403  # one hop too many
    Workspace.objects.filter(pk=trail[6].pk).update(forwarded_to=trail[5])
    assert discover(ada, trail[4]).status_code == 403  # a circle


def test_a_successor_in_another_team_is_as_closed_as_any(team):
    ada, bob = team
    outside = WorkspaceFactory(parent=WorkspaceFactory(parent=WorkspaceFactory()))
    Workspace.objects.filter(pk=bob.pk).update(forwarded_to=outside)
    assert discover(ada, bob).status_code == 403


# --- May they talk


@pytest.mark.parametrize("body", [{}, {"caller_id": str(uuid4())}, {"caller_id": 7, "target_id": 7}, []])
def test_both_ids_are_needed(body):
    answer = anonymous().post("/registry/check-access", body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_anybody_may_ask_whether_two_may_talk(team):
    ada, bob = team

    def allowed(caller: Any, target: Any) -> bool:
        body = {"caller_id": str(caller), "target_id": str(target)}
        return bool(anonymous().post("/registry/check-access", body).json()["allowed"])

    assert allowed(ada.pk, bob.pk)
    assert allowed(ada.pk, ada.pk)
    assert not allowed(ada.pk, uuid4())
    assert not allowed("nobody", bob.pk)
    unknown = uuid4()
    assert not allowed(unknown, unknown)
