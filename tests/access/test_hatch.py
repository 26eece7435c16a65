"""The development hatch: open only while every one of its conditions holds."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from access.checks import the_hatch_is_meant
from access.credentials import Kind, resolve
from access.models import TokenKind
from access.services import mint_token
from tests.clients import Api, anonymous
from tests.workspaces.factories import WorkspaceFactory

OPEN = {
    "MOLECULE_DEV_OPEN": True,
    "MOLECULE_ENV": "development",
    "ADMIN_TOKEN": "",
    "MOLECULE_ORG_ID": "",
    "CP_UPSTREAM_URL": "",
}
BROKEN = [
    ("MOLECULE_DEV_OPEN", False),
    ("MOLECULE_ENV", ""),
    ("MOLECULE_ENV", "production"),
    ("MOLECULE_ENV", "staging"),
    ("ADMIN_TOKEN", "a-token-of-the-operator"),
    ("MOLECULE_ORG_ID", "org-1"),
    ("CP_UPSTREAM_URL", "https://cp.example"),
]


@pytest.fixture(autouse=True)
def _hatch(settings: Any) -> None:
    for name, value in OPEN.items():
        setattr(settings, name, value)


@pytest.mark.django_db
def test_without_a_credential_the_machine_itself_comes_in() -> None:
    workspace = WorkspaceFactory()
    assert anonymous().get("/workspaces").status_code == 200
    assert anonymous().get(f"/workspaces/{workspace.pk}/activity").status_code == 200
    assert resolve(None, "127.0.0.1").actor == "dev-open"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "172.17.0.1", "192.168.1.5", "fd00::1"])
def test_the_local_network_comes_in(address: str) -> None:
    assert resolve(None, address).kind == Kind.DEV_OPEN


@pytest.mark.parametrize(
    "address",
    [
        "203.0.113.7",
        "198.51.100.1",
        "8.8.8.8",
        "2001:4860:4860::8888",
        "0.0.0.0",
        "169.254.169.254",
        "100.64.0.1",
    ],
)
def test_a_public_address_does_not(address: str) -> None:
    assert resolve(None, address).kind == Kind.ANONYMOUS


@pytest.mark.django_db
def test_behind_a_trusted_proxy_the_client_is_judged_not_the_proxy(settings: Any) -> None:
    settings.TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    assert Api(HTTP_X_FORWARDED_FOR="203.0.113.7").get("/workspaces").status_code == 401
    assert Api(HTTP_X_FORWARDED_FOR="10.0.0.7").get("/workspaces").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_each_condition_alone_closes_the_hatch(settings: Any, name: str, value: Any) -> None:
    setattr(settings, name, value)
    assert resolve(None, "127.0.0.1").kind == Kind.ANONYMOUS
    assert Api(HTTP_X_MOLECULE_ORG_ID="org-1").get("/workspaces").status_code == 401


@pytest.mark.parametrize(("name", "value"), BROKEN[1:])
def test_an_open_switch_with_a_broken_condition_is_refused_at_boot(
    settings: Any, name: str, value: Any
) -> None:
    setattr(settings, name, value)
    (message,) = the_hatch_is_meant(None)
    assert (message.id, message.is_serious()) == ("access.E003", True)


def test_an_open_hatch_is_warned_about_at_every_start() -> None:
    (message,) = the_hatch_is_meant(None)
    assert (message.id, message.is_serious()) == ("access.W002", False)


@pytest.mark.django_db
def test_a_wrong_bearer_is_refused_inside_the_hatch_too() -> None:
    workspace = WorkspaceFactory()
    for path in ("/workspaces", f"/workspaces/{workspace.pk}/activity"):
        assert Api("junk").get(path).status_code == 401


@pytest.mark.django_db
def test_a_workspace_token_passes_admin_routes_inside_the_hatch_only(settings: Any) -> None:
    token = mint_token(workspace_id=WorkspaceFactory().pk, kind=TokenKind.API)
    assert Api(token).get("/workspaces").status_code == 200
    settings.MOLECULE_DEV_OPEN = False
    assert Api(token).get("/workspaces").status_code == 401


@pytest.mark.django_db
def test_a_workspace_token_stays_bound_to_its_workspace_inside_the_hatch() -> None:
    mine, other = WorkspaceFactory(), WorkspaceFactory()
    token = mint_token(workspace_id=mine.pk, kind=TokenKind.API)
    assert Api(token).get(f"/workspaces/{other.pk}/activity").status_code == 401


@pytest.mark.django_db
def test_the_hatch_is_nobodys_own_token() -> None:
    workspace = WorkspaceFactory()
    answer = anonymous().post(f"/workspaces/{workspace.pk}/activity/ack", {"acked_seq": 1})
    assert (answer.status_code, answer.json()) == (401, {"error": "missing workspace auth token"})


@pytest.mark.django_db
def test_of_two_bearers_the_first_valid_one_counts_inside_the_hatch() -> None:
    workspace = WorkspaceFactory()
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    principal = resolve(f"Bearer junk, Bearer {token}", "127.0.0.1")
    assert principal.workspace_id == workspace.pk
    assert resolve("Bearer junk, Bearer more", "127.0.0.1").kind == Kind.INVALID
    assert resolve(f"Bearer junk, Bearer {token}", "8.8.8.8").kind == Kind.INVALID


@pytest.mark.django_db
def test_a_page_of_somebody_elses_changes_nothing_through_a_visitors_browser() -> None:
    workspace = WorkspaceFactory(name="before")
    path = f"/workspaces/{workspace.pk}"
    foreign = Api(HTTP_ORIGIN="https://elsewhere.example").patch(path, {"name": "after"})
    assert (foreign.status_code, foreign.json()) == (403, {"error": "origin not allowed"})
    assert Api(HTTP_ORIGIN="http://localhost:3000").patch(path, {"name": "canvas"}).status_code == 200
    assert anonymous().patch(path, {"name": "shell"}).status_code == 200
