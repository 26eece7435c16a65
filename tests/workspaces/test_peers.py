"""GET /registry/:id/peers, and the card that peers read."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from tests.clients import admin, agent_of, anonymous
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db

KEYS = {"id", "name", "role", "tier", "status", "url", "parent_id", "active_tasks", "agent_card"}


@pytest.fixture
def org():
    """top -> (left -> kid, right, gone)."""
    top = WorkspaceFactory(name="top")
    right = WorkspaceFactory(name="right", parent=top, role="reads the MAIL")
    left = WorkspaceFactory(name="left", parent=top)
    kid = WorkspaceFactory(name="kid", parent=left)
    WorkspaceFactory(name="gone", parent=top, status=Status.REMOVED)
    WorkspaceFactory(name="another root")
    return {"top": top, "left": left, "right": right, "kid": kid}


def names(row: Workspace, **params: Any) -> list[str]:
    return [one["name"] for one in agent_of(row.pk).get(f"/registry/{row.pk}/peers", **params).json()]


def test_siblings_come_first_then_children_then_the_parent(org):
    third = WorkspaceFactory(name="third", parent=org["top"])
    assert names(org["left"]) == ["right", "third", "kid", "top"]
    assert names(third) == ["right", "left", "top"]
    assert names(org["kid"]) == ["left"]


def test_roots_are_each_others_siblings_unless_the_deployment_says_no(org, settings):
    assert names(org["top"]) == ["another root", "right", "left"]
    settings.COMM_ROOT_SIBLINGS = "deny"
    assert names(org["top"]) == ["right", "left"]
    assert names(org["left"])[0] == "right"


def test_a_peer_has_exactly_the_keys_clients_read(org):
    peer = admin().get(f"/registry/{org['kid'].pk}/peers").json()[0]
    assert set(peer) == KEYS
    assert (peer["url"], peer["role"], peer["agent_card"]) == ("", None, None)
    assert peer["parent_id"] == str(org["top"].pk)


def test_a_search_looks_into_names_and_roles_and_survives_a_missing_role(org):
    assert names(org["left"], q=" mail ") == ["right"]
    assert names(org["left"], q="RIGHT") == ["right"]
    assert names(org["left"], q="%") == []
    alone = WorkspaceFactory(name="alone", parent=WorkspaceFactory(name="its parent"))
    assert agent_of(alone.pk).get(f"/registry/{alone.pk}/peers", q="nothing").content == b"[]"
    assert agent_of(alone.pk).get(f"/registry/{alone.pk}/peers", q="a\x00b").status_code == 400


def test_the_caller_is_the_workspace_itself_or_an_operator(org):
    path = f"/registry/{org['left'].pk}/peers"
    assert admin().get(path).status_code == 200
    assert anonymous().get(path).json() == {"error": "missing workspace auth token"}
    assert agent_of(org["right"].pk).get(path).json() == {"error": "invalid workspace auth token"}
    assert admin().get(f"/registry/{uuid4()}/peers").json() == {"error": "workspace not found"}
    assert admin().get("/registry/global/peers").json() == {"error": "invalid workspace ID"}


def test_many_peers_cost_what_few_cost(org, django_assert_num_queries):
    WorkspaceFactory.create_batch(20, parent=org["top"])
    with django_assert_num_queries(2):
        assert len(admin().get(f"/registry/{org['left'].pk}/peers").json()) == 23


@pytest.mark.django_db(transaction=True)
def test_a_query_that_fails_is_no_short_list(org, monkeypatch):
    from workspaces import registry_views

    def broken(*given: Any, **named: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    monkeypatch.setattr(registry_views, "peers", broken)
    answer = admin().get(f"/registry/{org['left'].pk}/peers")
    assert (answer.status_code, answer.json()) == (500, {"error": "query failed"})


# --- The card peers read


def card(api: Any, row: Workspace) -> Any:
    return api.get(f"/workspaces/{row.pk}/.well-known/agent-card.json")


def test_the_card_leads_through_this_server_and_names_no_other_address(org, settings):
    settings.EXTERNAL_PLATFORM_URL = "https://ws.example.com"
    left, kid = org["left"], org["kid"]
    left.agent_card = {
        "name": "", "url": "http://10.0.0.7:8000", "skills": [{"id": "s"}],
        "additionalInterfaces": [{"url": "http://10.0.0.7:9000"}],
        "supportedInterfaces": [{"url": "http://10.0.0.7:9001"}],
    }  # fmt: skip
    left.save()
    answer = card(agent_of(kid.pk), left)
    assert answer.json() == {
        "name": "left", "description": "left", "skills": [{"id": "s"}],
        "url": f"https://ws.example.com/workspaces/{left.pk}/a2a",
    }  # fmt: skip
    assert b"10.0.0.7" not in answer.content


def test_who_may_read_a_card(org):
    left = org["left"]
    assert card(admin(), left).json() == {"error": "workspace has no agent card"}
    Workspace.objects.update(agent_card={"name": "x"})
    for name in ("left", "right", "top", "kid"):
        assert card(agent_of(org[name].pk), left).status_code == 200
    assert card(anonymous(), left).status_code == 401
    stranger = agent_of(WorkspaceFactory(name="cousin", parent=org["right"]).pk)
    refused = card(stranger, left)
    assert (refused.status_code, refused.json()) == (403, {"error": "access denied"})
    gone = Workspace.objects.get(name="gone")
    assert card(admin(), gone).json() == {"error": "workspace not found"}
