"""Who is calling: what each credential resolves to, in every form it arrives in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from access.authentication import principal_of
from access.credentials import MAX_TOKEN_CHARS, Kind, bearers, resolve
from access.models import TokenKind, WorkspaceAuthToken
from access.services import mint_token, revoke_tokens
from config.errors import Unavailable
from tests.clients import Api, admin
from tests.conftest import ADMIN_TOKEN
from tests.outages import database_away
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

PUBLIC, LOCAL = "198.51.100.9", "127.0.0.1"


def minted(workspace: Workspace) -> str:
    return mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE, generation=3)


@pytest.mark.parametrize(
    ("header", "tokens"),
    [
        (None, []),
        ("", []),
        ("Bearer abc", ["abc"]),
        ("bearer abc", ["abc"]),
        ("BEARER   abc  ", ["abc"]),
        ("Bearer", []),
        ("Bearer   ", []),
        ("Basic abc", []),
        ("abc", []),
        ("Bearer one, Bearer two", ["one", "two"]),
        ("Bearer , Bearer two", ["two"]),
        ("Basic x, Bearer two", ["two"]),
        (", ".join(f"Bearer {number}" for number in range(9)), ["0", "1", "2", "3"]),
    ],
)
def test_the_bearers_of_a_header(header: str | None, tokens: list[str]) -> None:
    assert bearers(header) == tokens


def test_no_credential_is_anonymous() -> None:
    assert resolve(None, PUBLIC).kind == Kind.ANONYMOUS
    assert resolve("Basic dXNlcg==", PUBLIC).kind == Kind.ANONYMOUS


def test_the_admin_token_is_the_operator_and_asks_no_database() -> None:
    principal = resolve(f"Bearer {ADMIN_TOKEN}", PUBLIC)  # the database is closed to this test
    assert (principal.kind, principal.actor) == (Kind.ADMIN, "admin-token")


@pytest.mark.django_db
def test_an_unset_admin_token_matches_nothing(settings: Any) -> None:
    settings.ADMIN_TOKEN = ""
    assert resolve("Bearer " + ADMIN_TOKEN, PUBLIC).kind == Kind.INVALID
    assert resolve("Bearer  ", PUBLIC).kind == Kind.ANONYMOUS


@pytest.mark.django_db
def test_a_workspace_token_is_its_workspace() -> None:
    workspace = WorkspaceFactory()
    principal = resolve(f"Bearer {minted(workspace)}", PUBLIC)
    assert principal.kind == Kind.WORKSPACE
    assert principal.actor == f"workspace:{workspace.pk}"
    assert (principal.workspace_id, principal.generation) == (workspace.pk, 3)
    assert not principal.is_admin_class


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["nonsense", "x" * (MAX_TOKEN_CHARS + 1), "ü€😀", "a b"])
def test_an_unknown_bearer_is_invalid_not_anonymous(token: str) -> None:
    assert resolve(f"Bearer {token}", PUBLIC).kind == Kind.INVALID


@pytest.mark.django_db
def test_a_token_longer_than_the_limit_is_invalid_even_when_it_is_the_right_one(settings: Any) -> None:
    settings.ADMIN_TOKEN = "a" * (MAX_TOKEN_CHARS + 1)
    assert resolve(f"Bearer {settings.ADMIN_TOKEN}", PUBLIC).kind == Kind.INVALID


@pytest.mark.django_db
def test_a_revoked_token_is_invalid() -> None:
    workspace = WorkspaceFactory()
    token = minted(workspace)
    assert revoke_tokens(workspace_id=workspace.pk) == 1
    assert resolve(f"Bearer {token}", PUBLIC).kind == Kind.INVALID


@pytest.mark.django_db
def test_the_token_of_a_removed_workspace_is_dead_even_when_nobody_revoked_it() -> None:
    workspace = WorkspaceFactory()
    token = minted(workspace)
    Workspace.objects.filter(pk=workspace.pk).update(status=Status.REMOVED)
    assert resolve(f"Bearer {token}", PUBLIC).kind == Kind.INVALID


@pytest.mark.django_db
def test_two_different_bearers_are_refused_outside_the_hatch() -> None:
    token = minted(WorkspaceFactory())
    assert resolve(f"Bearer {ADMIN_TOKEN}, Bearer {token}", LOCAL).kind == Kind.INVALID
    assert resolve(f"Bearer {ADMIN_TOKEN}, Bearer junk", LOCAL).kind == Kind.INVALID


@pytest.mark.django_db
def test_one_bearer_beside_an_empty_or_an_equal_one_counts() -> None:
    assert resolve(f"Bearer {ADMIN_TOKEN}, Bearer ", LOCAL).kind == Kind.ADMIN
    assert resolve(f"Bearer {ADMIN_TOKEN}, Bearer {ADMIN_TOKEN}", LOCAL).kind == Kind.ADMIN


@pytest.mark.django_db(transaction=True)
def test_an_unreachable_database_is_never_a_bad_credential() -> None:
    with database_away():
        with pytest.raises(Unavailable):
            resolve("Bearer something", PUBLIC)
        answer = Api("something").get("/workspaces")
    assert answer.status_code == 503
    assert answer.json()["code"] == "platform_unavailable"
    assert "127.0.0.1" not in answer.content.decode()


# --- The use of a token


@pytest.mark.django_db
def test_the_use_of_a_token_is_stamped_at_most_once_a_minute() -> None:
    workspace = WorkspaceFactory()
    header = f"Bearer {minted(workspace)}"
    tokens = WorkspaceAuthToken.objects.filter(workspace=workspace)

    resolve(header, PUBLIC)
    first = tokens.get().last_used_at
    resolve(header, PUBLIC)
    assert first is not None
    assert tokens.get().last_used_at == first

    tokens.update(last_used_at=timezone.now() - timedelta(seconds=61))
    resolve(header, PUBLIC)
    assert tokens.get().last_used_at > timezone.now() - timedelta(seconds=5)


@pytest.mark.django_db
def test_a_fresh_token_costs_one_statement(django_assert_num_queries: Any) -> None:
    header = f"Bearer {minted(WorkspaceFactory())}"
    resolve(header, PUBLIC)
    with django_assert_num_queries(1):
        resolve(header, PUBLIC)


@pytest.mark.django_db
def test_a_request_is_resolved_once(rf: Any, django_assert_num_queries: Any) -> None:
    request = rf.get("/", HTTP_AUTHORIZATION=f"Bearer {minted(WorkspaceFactory())}")
    known = principal_of(request)
    with django_assert_num_queries(0):
        assert principal_of(request) is known


# --- X-Workspace-ID is a claim


@pytest.mark.django_db
def test_a_workspace_may_name_only_itself() -> None:
    workspace, other = WorkspaceFactory(), WorkspaceFactory()
    token = minted(workspace)
    path = f"/workspaces/{workspace.pk}/activity"
    assert Api(token, HTTP_X_WORKSPACE_ID=str(workspace.pk).upper()).get(path).status_code == 200
    answer = Api(token, HTTP_X_WORKSPACE_ID=str(other.pk)).get(path)
    assert (answer.status_code, answer.json()) == (403, {"error": "caller identity mismatch"})


@pytest.mark.django_db
@pytest.mark.parametrize("claimed", ["system:x", "webhook:x", "test:x", "channel:telegram", "SYSTEM:x"])
def test_nobody_is_the_system(claimed: str) -> None:
    answer = Api(ADMIN_TOKEN, HTTP_X_WORKSPACE_ID=claimed).get("/workspaces")
    assert (answer.status_code, answer.json()) == (403, {"error": "invalid caller ID"})


@pytest.mark.django_db
def test_a_claim_without_a_credential_opens_nothing() -> None:
    workspace = WorkspaceFactory()
    answer = Api(HTTP_X_WORKSPACE_ID=str(workspace.pk)).get(f"/workspaces/{workspace.pk}/activity")
    assert answer.status_code == 401


# --- Headers that route but never identify


@pytest.mark.django_db
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"HTTP_ORIGIN": "http://testserver", "HTTP_REFERER": "http://testserver/"},
        {"HTTP_COOKIE": "session=anything; sessionid=x"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_X_MOLECULE_ORG_ID": "org"},
    ],
)
@pytest.mark.parametrize("env", ["", "development"])
def test_no_header_stands_in_for_a_credential(settings: Any, headers: dict[str, str], env: str) -> None:
    settings.MOLECULE_ENV = env
    settings.ADMIN_TOKEN = ""
    for path in ("/workspaces", "/events", "/admin/liveness", f"/workspaces/{uuid4()}/activity"):
        answer = Api(**headers).get(path)
        assert answer.status_code == 401, path
        assert answer["WWW-Authenticate"] == "Bearer"
        assert set(answer.json()) == {"error"}


@pytest.mark.django_db
def test_the_operator_sees_the_list() -> None:
    assert admin().get("/workspaces").json() == []
