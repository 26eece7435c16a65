"""Org tokens: their routes, who minted what, which workspaces one opens, and the shell command."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.http import HttpRequest
from django.test import Client
from django.urls import path
from django.utils import timezone
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from access import anchoring
from access.credentials import Kind, resolve
from access.models import OrgApiToken, OrgTokenAuditLog
from access.permissions import OrgAccess
from access.services import Caller, mint_org_token
from config.urls import handler404  # noqa: F401
from config.urls import urlpatterns as product
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import database_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


class Allowlist(ViewSet):
    permission_classes = [OrgAccess]

    def list(self, request: HttpRequest, org_id: str) -> Response:
        return Response([])


urlpatterns = [path("orgs/<org_id>/things", Allowlist.as_view({"get": "list"})), *product]


def token(org_id: UUID | None = None, **given: Any) -> str:
    return mint_org_token(caller=Caller(actor="test", org_id=org_id), **given).plaintext


def raw_post(body: bytes) -> Any:
    return admin()._client.post("/org/tokens", body, content_type="application/json")


# --- Routes


def test_an_empty_body_mints_a_token() -> None:
    answer = raw_post(b"")
    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "prefix", "auth_token", "warning"}
    assert answer["Cache-Control"] == "no-store"
    plaintext = answer.json()["auth_token"]
    row = OrgApiToken.objects.get()
    assert (len(plaintext), len(bytes(row.token_hash)), row.prefix) == (43, 32, plaintext[:8])
    assert (row.created_by, row.org_id, row.name, row.expires_at) == ("admin-token", None, None, None)
    assert Api(plaintext).get("/workspaces").status_code == 200
    row.refresh_from_db()
    assert row.last_used_at is not None
    assert resolve(f"Bearer {plaintext}", "1.1.1.1").actor == f"org-token:{plaintext[:8]}"


def test_the_list_leaves_out_what_is_empty_and_never_shows_a_token() -> None:
    until = timezone.now() + timedelta(days=1)
    minted = admin().post("/org/tokens", {"name": "ci", "expires_at": until.isoformat()}).json()
    assert (minted["name"], minted["expires_at"][:19]) == ("ci", until.isoformat()[:19])
    plain = raw_post(b"{}").json()
    answer = admin().get("/org/tokens").json()
    assert answer["count"] == 2
    newest, named = answer["tokens"]
    assert set(newest) == {"id", "prefix", "created_by", "created_at"}
    assert set(named) == {"id", "prefix", "name", "created_by", "created_at", "expires_at"}
    assert plain["auth_token"] not in str(answer)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "invalid request body"),
        (b"[1]", "invalid request body"),
        (b'{"name":"' + b"x" * 101 + b'"}', "name must be at most 100 characters"),
        (b'{"expires_at":"soon"}', "expires_at must be an RFC 3339 time in the future"),
        (b'{"expires_at":"2020-01-01T00:00:00Z"}', "expires_at must be an RFC 3339 time in the future"),
    ],
)
def test_a_bad_body_is_a_400(body: bytes, text: str) -> None:
    answer = raw_post(body)
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert not OrgApiToken.objects.exists()


def test_a_name_of_100_characters_is_one() -> None:
    assert admin().post("/org/tokens", {"name": "ä" * 100}).status_code == 200


def test_revoking_works_once() -> None:
    plaintext = raw_post(b"").json()["auth_token"]
    row = OrgApiToken.objects.get()
    assert admin().delete(f"/org/tokens/{row.pk}").json() == {"revoked": str(row.pk)}
    assert Api(plaintext).get("/workspaces").status_code == 401
    for one in (row.pk, uuid4(), "junk"):
        answer = admin().delete(f"/org/tokens/{one}")
        assert (answer.status_code, answer.json()) == (404, {"error": "token not found or already revoked"})
    assert admin().get("/org/tokens").json() == {"tokens": [], "count": 0}


def test_an_expired_token_is_invalid_and_not_listed() -> None:
    plaintext = token(expires_at=timezone.now() + timedelta(minutes=1))
    assert Api(plaintext).get("/workspaces").status_code == 200
    OrgApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert Api(plaintext).get("/workspaces").status_code == 401
    assert admin().get("/org/tokens").json()["count"] == 0


def test_the_eleventh_mint_within_an_hour_is_refused() -> None:
    statuses = [raw_post(b"").status_code for _ in range(11)]
    assert statuses == [200] * 10 + [429]
    answer = raw_post(b"")
    assert 1 <= int(answer["Retry-After"]) <= 3600
    assert answer.json() == {"error": "rate limit exceeded", "retry_after": int(answer["Retry-After"])}
    elsewhere = Client(HTTP_AUTHORIZATION=f"Bearer {token()}")
    assert elsewhere.post("/org/tokens", b"", content_type="application/json").status_code == 200


def test_the_ceiling_counts_live_tokens_of_one_org(settings: Any) -> None:
    settings.ORG_TOKEN_MINT_CEILING = 2
    org = WorkspaceFactory()
    for _ in range(2):
        token()
    assert raw_post(b"").status_code == 429
    token(org.pk)
    OrgApiToken.objects.filter(org=None).first().delete()  # type: ignore[union-attr]
    assert raw_post(b"").status_code == 200
    for off in (0, -1):
        settings.ORG_TOKEN_MINT_CEILING = off
        assert raw_post(b"").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_many_that_want_the_last_place_one_gets_it(settings: Any) -> None:
    settings.ORG_TOKEN_MINT_CEILING = 3
    outcomes = at_once(*[lambda: len(token())] * 8)
    assert [one for one in outcomes if one == 43] == [43] * 3
    assert OrgApiToken.objects.count() == 3


def test_only_operators_may() -> None:
    for caller in (anonymous(), agent_of(WorkspaceFactory().pk)):
        assert caller.get("/org/tokens").status_code == 401
        assert caller.post("/org/tokens").status_code == 401
        assert caller.delete(f"/org/tokens/{uuid4()}").status_code == 401


def test_minting_and_revoking_are_on_record() -> None:
    client = admin()._client
    client.post("/org/tokens", b'{"name":"ci"}', content_type="application/json", HTTP_USER_AGENT="agent/1")
    row = OrgApiToken.objects.get()
    Api(token()).delete(f"/org/tokens/{row.pk}")
    minted, _, revoked = OrgTokenAuditLog.objects.order_by("created_at")
    assert (minted.action, minted.actor, minted.token_id) == ("mint", "admin-token", row.pk)
    assert (minted.ip_address, minted.user_agent) == ("127.0.0.1", "agent/1")
    assert minted.metadata == {"prefix": row.prefix, "name": "ci"}
    assert (revoked.action, revoked.actor[:10]) == ("revoke", "org-token:")


# --- Which workspaces a token opens


@pytest.fixture
def tree() -> dict[str, Workspace]:
    one, two = WorkspaceFactory(name="one"), WorkspaceFactory(name="two")
    child = WorkspaceFactory(parent=one)
    return {"one": one, "child": child, "grandchild": WorkspaceFactory(parent=child), "two": two}


OTHER_ORG = {"error": "org token not authorized for this workspace's org"}


def test_a_bound_token_opens_the_workspaces_of_its_org_only(tree: dict[str, Workspace]) -> None:
    for bound_to in ("one", "child"):  # whatever of the tree it names, its org is the root
        caller = Api(token(tree[bound_to].pk))
        for name in ("one", "child", "grandchild"):
            assert caller.get(f"/workspaces/{tree[name].pk}/activity").status_code == 200
        for workspace_id in (tree["two"].pk, uuid4()):
            answer = caller.get(f"/workspaces/{workspace_id}/activity")
            assert (answer.status_code, answer.json()) == (403, OTHER_ORG)


def test_it_deletes_nothing_of_another_org(tree: dict[str, Workspace]) -> None:
    caller = Api(token(tree["one"].pk))
    answer = caller.delete(f"/workspaces/{tree['two'].pk}?confirm=true")
    assert (answer.status_code, answer.json()) == (403, OTHER_ORG)
    assert caller.get("/workspaces").status_code == 200


def test_an_unbound_token_opens_all_of_them(tree: dict[str, Workspace]) -> None:
    caller = Api(token())
    for workspace in tree.values():
        assert caller.get(f"/workspaces/{workspace.pk}/activity").status_code == 200


def test_a_bound_token_moves_workspaces_within_its_org_only(tree: dict[str, Workspace]) -> None:
    caller, path = Api(token(tree["one"].pk)), f"/workspaces/{tree['grandchild'].pk}"
    for parent in (str(tree["two"].pk), None):
        answer = caller.patch(path, {"parent_id": parent})
        assert (answer.status_code, answer.json()) == (403, OTHER_ORG)
    tree["grandchild"].refresh_from_db()
    assert tree["grandchild"].parent_id == tree["child"].pk
    assert caller.patch(path, {"parent_id": str(tree["one"].pk)}).status_code == 200
    assert Api(token()).patch(path, {"parent_id": None}).status_code == 200


def test_a_bound_token_mints_and_sees_tokens_of_its_org(tree: dict[str, Workspace]) -> None:
    unbound, bound = token(), token(tree["one"].pk)
    child = Api(bound).post("/org/tokens").json()
    row = OrgApiToken.objects.get(pk=child["id"])
    assert (row.org_id, row.is_anchored, row.created_by) == (tree["one"].pk, True, f"org-token:{bound[:8]}")
    assert Api(bound).get("/org/tokens").json()["count"] == 2
    assert admin().get("/org/tokens").json()["count"] == 3
    foreign = OrgApiToken.objects.get(prefix=unbound[:8])
    assert Api(bound).delete(f"/org/tokens/{foreign.pk}").status_code == 404
    assert Api(bound).delete(f"/org/tokens/{child['id']}").status_code == 200


def test_a_token_dies_with_its_org_and_never_becomes_an_unbound_one() -> None:
    org = WorkspaceFactory()
    bound = token(org.pk)
    org.delete()
    row = OrgApiToken.objects.get()
    assert (row.org_id, row.is_anchored) == (None, True)
    assert Api(bound).get("/workspaces").status_code == 401


def test_routes_of_an_org(settings: Any, tree: dict[str, Workspace]) -> None:
    settings.ROOT_URLCONF = __name__
    url = f"/orgs/{tree['one'].pk}/things"
    denied = {"error": "org access denied"}
    assert admin().get(url).status_code == 200
    assert Api(token(tree["one"].pk)).get(url).status_code == 200
    for bound_to in (None, tree["two"].pk):
        answer = Api(token(bound_to)).get(url)
        assert (answer.status_code, answer.json()) == (403, denied)
    answer = Api(token(tree["two"].pk)).get(f"/orgs/{uuid4()}/things")
    assert answer.json() == denied
    assert anonymous().get(url).status_code == 401
    assert agent_of(tree["one"].pk).get(url).status_code == 401


def test_the_root_is_looked_up_once_in_30_seconds(
    tree: dict[str, Workspace], django_assert_num_queries: Any, monkeypatch: Any
) -> None:
    grandchild = tree["grandchild"].pk
    with django_assert_num_queries(1):
        for _ in range(3):
            assert anchoring.org_root(grandchild) == tree["one"].pk
    Workspace.objects.filter(pk=grandchild).update(parent=tree["two"])
    assert anchoring.org_root(grandchild) == tree["one"].pk
    began = anchoring.time.monotonic()
    monkeypatch.setattr(anchoring.time, "monotonic", lambda: began + 31)
    assert anchoring.org_root(grandchild) == tree["two"].pk


def test_a_chain_without_an_end_belongs_to_nobody(tree: dict[str, Workspace]) -> None:
    one, child = tree["one"], tree["child"]
    Workspace.objects.filter(pk=one.pk).update(parent=child)
    assert anchoring.org_root(child.pk) is None
    assert Api(token(tree["two"].pk)).get(f"/workspaces/{child.pk}/activity").status_code == 403
    assert Api(token(one.pk)).get(f"/workspaces/{one.pk}/activity").status_code == 403


@pytest.mark.django_db(transaction=True)
def test_an_unreachable_database_is_never_a_bad_org_token() -> None:
    plaintext = token()
    with database_away():
        answer = Api(plaintext).get("/workspaces")
    assert (answer.status_code, answer.json()["code"]) == (503, "platform_unavailable")


# --- From the shell


def test_the_first_token_comes_from_the_shell(settings: Any) -> None:
    settings.ADMIN_TOKEN = ""
    out = StringIO()
    call_command("mint_org_token", name="first", stdout=out)
    plaintext = out.getvalue().strip()
    assert resolve(f"Bearer {plaintext}", "1.1.1.1").kind == Kind.ORG
    row = OrgApiToken.objects.get()
    assert (row.name, row.created_by) == ("first", "command-line")
    assert OrgTokenAuditLog.objects.get().actor == "command-line"
    assert Api(plaintext).get("/workspaces").status_code == 200


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_the_shell_wants_a_name(name: str) -> None:
    with pytest.raises(CommandError):
        call_command("mint_org_token", name=name, stdout=StringIO())
