"""The routes of workspace tokens: mint, list, revoke, the cap, and the token of end-to-end scripts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from access.models import OrgApiToken, TokenKind, WorkspaceAuthToken
from access.services import Caller, mint_org_token, mint_token
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory(generation=4)


def test_a_minted_token_is_shown_once_and_opens_its_workspace(workspace: Workspace) -> None:
    path = f"/workspaces/{workspace.pk}/tokens"
    answer = admin()._client.post(path, b"", content_type="application/json")
    assert answer.status_code == 201
    assert set(answer.json()) == {"auth_token", "workspace_id", "message"}
    token = answer.json()["auth_token"]
    assert (len(token), answer.json()["workspace_id"]) == (43, str(workspace.pk))
    assert answer["Cache-Control"] == "no-store"
    row = WorkspaceAuthToken.objects.get()
    assert (len(bytes(row.token_hash)), row.prefix, row.kind) == (32, token[:8], "api")

    listed = Api(token).get(path)
    (shown,) = listed.json()["tokens"]
    assert listed.json()["count"] == 1
    assert set(shown) == {"id", "prefix", "created_at", "last_used_at", "kind"}
    assert (shown["id"], shown["prefix"], shown["kind"]) == (str(row.pk), token[:8], "api")
    assert token not in listed.content.decode()


def test_the_list_is_newest_first_live_only_and_paged(workspace: Workspace) -> None:
    ids = []
    for minute in range(5):
        row = WorkspaceAuthToken.objects.create(
            workspace=workspace,
            token_hash=bytes([minute]) * 32,
            prefix="p",
            created_at=timezone.now() + timedelta(minutes=minute),
            revoked_at=timezone.now() if minute == 2 else None,
        )
        ids.append(str(row.pk))
    mint_token(workspace_id=WorkspaceFactory().pk, kind=TokenKind.API)
    path = f"/workspaces/{workspace.pk}/tokens"
    newest_first = [ids[4], ids[3], ids[1], ids[0]]

    def page(**params: Any) -> list[str]:
        body = admin().get(path, **params).json()
        assert body["count"] == len(body["tokens"])
        return [one["id"] for one in body["tokens"]]

    assert page() == newest_first
    assert page(limit=2) == newest_first[:2]
    assert page(limit=2, offset=2) == newest_first[2:]
    for odd in ("0", "201", "-1", "abc", "9" * 30, "1.5"):
        assert page(limit=odd, offset=odd if odd == "abc" else 0) == newest_first


def test_revoking_works_once_and_only_for_its_own_workspace(workspace: Workspace) -> None:
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    row, other = WorkspaceAuthToken.objects.get(), WorkspaceFactory()
    gone = {"error": "token not found or already revoked"}
    for path in (f"/workspaces/{other.pk}/tokens/{row.pk}", f"/workspaces/{workspace.pk}/tokens/{uuid4()}"):
        answer = admin().delete(path)
        assert (answer.status_code, answer.json()) == (404, gone)
    assert admin().delete(f"/workspaces/{workspace.pk}/tokens/junk").json() == gone
    path = f"/workspaces/{workspace.pk}/tokens/{row.pk}"
    assert Api(token).delete(path).json() == {"status": "revoked"}
    assert Api(token).delete(path).status_code == 401
    assert admin().delete(path).status_code == 404


def test_a_workspace_has_50_live_tokens_at_most(workspace: Workspace) -> None:
    for _ in range(50):
        mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    answer = admin().post(f"/workspaces/{workspace.pk}/tokens")
    assert (answer.status_code, answer.json()) == (429, {"error": "maximum 50 active tokens per workspace"})
    assert admin().post(f"/admin/workspaces/{workspace.pk}/tokens").status_code == 429
    first = WorkspaceAuthToken.objects.first()
    assert first is not None
    admin().delete(f"/workspaces/{workspace.pk}/tokens/{first.pk}")
    assert admin().post(f"/workspaces/{workspace.pk}/tokens").status_code == 201


@pytest.mark.django_db(transaction=True)
def test_of_many_that_want_the_last_place_one_gets_it() -> None:
    workspace = WorkspaceFactory()
    for _ in range(49):
        mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    path = f"/workspaces/{workspace.pk}/tokens"
    outcomes = at_once(*[lambda: admin().post(path).status_code] * 6)
    assert sorted(outcomes) == [201, *[429] * 5]
    assert WorkspaceAuthToken.objects.live().count() == 50


def test_who_may_mint(workspace: Workspace) -> None:
    own, other = agent_of(workspace.pk), agent_of(WorkspaceFactory().pk)
    path, for_admins = f"/workspaces/{workspace.pk}/tokens", f"/admin/workspaces/{workspace.pk}/tokens"
    assert anonymous().post(path).status_code == 401
    assert other.post(path).status_code == 401
    assert own.post(path).status_code == 201
    assert own.post(for_admins).status_code == 401
    assert admin().post(for_admins).status_code == 201


@pytest.mark.parametrize("path", ["/workspaces/{}/tokens", "/admin/workspaces/{}/tokens"])
def test_ids_that_name_no_workspace(path: str) -> None:
    answer = admin().post(path.format("global"))
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid workspace ID"})
    removed = WorkspaceFactory(status=Status.REMOVED)
    for workspace_id in (uuid4(), removed.pk):
        answer = admin().post(path.format(workspace_id))
        assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})


def test_removing_a_workspace_kills_its_tokens_at_once() -> None:
    workspace = WorkspaceFactory(runtime="external")
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    path = f"/workspaces/{workspace.pk}/tokens"
    assert Api(token).get(path).status_code == 200
    assert admin().delete(f"/workspaces/{workspace.pk}?confirm=true").status_code == 200
    assert Api(token).get(path).status_code == 401


# --- The token of end-to-end scripts


@pytest.fixture
def org_token() -> str:
    return mint_org_token(caller=Caller(actor="test")).plaintext


@pytest.mark.parametrize(
    ("env", "flag", "is_there"),
    [
        ("", False, False),
        ("production", False, False),
        ("prod", False, False),
        ("staging", False, True),
        ("development", False, True),
        ("", True, True),
        ("production", True, True),
    ],
)
def test_where_the_test_token_route_exists(
    settings: Any, workspace: Workspace, env: str, flag: bool, is_there: bool
) -> None:
    settings.MOLECULE_ENV, settings.MOLECULE_ENABLE_TEST_TOKENS = env, flag
    path = f"/admin/workspaces/{workspace.pk}/test-token"
    answer = admin().get(path)
    if not is_there:
        for caller in (admin(), anonymous()):
            for one in (path, "/admin/workspaces/global/test-token"):
                answer = caller.get(one)
                assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
        return
    assert set(answer.json()) == {"auth_token", "workspace_id"}
    row = WorkspaceAuthToken.objects.get()
    assert (row.kind, row.generation) == ("instance", 4)
    assert Api(answer.json()["auth_token"]).get(f"/workspaces/{workspace.pk}/tokens").status_code == 200
    assert admin().get(path).json()["auth_token"] != answer.json()["auth_token"]


def test_only_the_operators_own_token_opens_it(settings: Any, workspace: Workspace, org_token: str) -> None:
    settings.MOLECULE_ENV = "staging"
    path = f"/admin/workspaces/{workspace.pk}/test-token"
    for caller in (
        anonymous(),
        Api("junk"),
        Api(org_token),
        agent_of(workspace.pk),
        Api(None, HTTP_COOKIE="s=1"),
    ):
        answer = caller.get(path)
        assert (answer.status_code, answer.json()) == (401, {"error": "admin auth required"})
    assert admin().get(path).status_code == 200
    for workspace_id in (uuid4(), WorkspaceFactory(status=Status.REMOVED).pk):
        answer = admin().get(f"/admin/workspaces/{workspace_id}/test-token")
        assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})
    assert admin().get("/admin/workspaces/global/test-token").status_code == 400


def test_without_an_operator_only_the_open_hatch_does(settings: Any, workspace: Workspace) -> None:
    settings.MOLECULE_ENV, settings.ADMIN_TOKEN = "development", ""
    path = f"/admin/workspaces/{workspace.pk}/test-token"
    for caller in (anonymous(), Api(ADMIN_TOKEN)):
        assert caller.get(path).status_code == 404
    settings.MOLECULE_DEV_OPEN = True
    assert anonymous().get(path).status_code == 200
    assert Api("junk").get(path).status_code == 401
    assert Client(REMOTE_ADDR="198.51.100.1").get(path).status_code == 404


def test_the_token_is_not_logged(settings: Any, workspace: Workspace, caplog: Any, capsys: Any) -> None:
    settings.MOLECULE_ENV = "staging"
    token = admin().get(f"/admin/workspaces/{workspace.pk}/test-token").json()["auth_token"]
    assert token[8:] not in caplog.text + capsys.readouterr().out
    assert not OrgApiToken.objects.exists()
