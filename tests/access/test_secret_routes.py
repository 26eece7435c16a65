"""Secrets over HTTP: names and values, who reads which, and who is restarted by a change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from access import hooks
from access.models import GlobalSecret, TokenKind, WorkspaceSecret
from access.secret_names import RESERVED_KEYS
from access.services import Caller, mint_org_token, mint_token, remove_workspace_secret, set_workspace_secret
from config import jobs
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import WorkspaceLifecycle
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import ADMIN_TOKEN, at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _key(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    settings.SECRETS_ENCRYPTION_KEYS = []


@pytest.fixture(autouse=True)
def _compute(monkeypatch: Any) -> Iterator[None]:
    """Something that could be restarted; nobody answers the bell."""
    monkeypatch.setattr(jobs, "_send", lambda job, ids: None)
    dispatch.wire(InMemoryBackend())
    yield
    dispatch.choose_again()


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory(status=Status.ONLINE)


def secrets_of(workspace: Workspace) -> str:
    return f"/workspaces/{workspace.pk}/secrets"


def put(caller: Api, path: str, key: str, value: str) -> Any:
    return caller.post(path, {"key": key, "value": value})


def restarted() -> set[UUID]:
    """Who is to be restarted since this was last asked."""
    rows = WorkspaceLifecycle.objects.filter(restart_pending=True)
    found = set(rows.values_list("workspace_id", flat=True))
    rows.update(restart_pending=False)
    return found


# --- Names and values


def test_a_workspace_sees_its_own_names_then_the_global_ones_it_does_not_override(
    workspace: Workspace,
) -> None:
    for key in ("ZULU", "BOTH", "ALPHA"):
        assert put(admin(), "/settings/secrets", key, "global").json() == {
            "status": "saved",
            "key": key,
            "scope": "global",
        }
    for key in ("YANKEE", "BOTH"):
        answer = put(admin(), secrets_of(workspace), key, "own")
        assert answer.json() == {"status": "saved", "key": key}
    listed = agent_of(workspace.pk).get(secrets_of(workspace)).json()
    assert [(one["key"], one["scope"]) for one in listed] == [
        ("BOTH", "workspace"),
        ("YANKEE", "workspace"),
        ("ALPHA", "global"),
        ("ZULU", "global"),
    ]
    assert set(listed[0]) == {"key", "has_value", "scope", "created_at", "updated_at"}
    assert all(one["has_value"] is True for one in listed)


def test_values_go_to_the_workspace_itself_only(workspace: Workspace) -> None:
    put(admin(), "/settings/secrets", "BOTH", "global")
    put(admin(), "/settings/secrets", "SHARED", "ünï")
    put(admin(), secrets_of(workspace), "BOTH", "own")
    path = f"{secrets_of(workspace)}/values"
    answer = agent_of(workspace.pk).get(path)
    assert answer.json() == {"BOTH": "own", "SHARED": "ünï"}
    assert answer["Cache-Control"] == "no-store"
    org = Api(mint_org_token(caller=Caller(actor="test")).plaintext)
    for caller, text in (
        (admin(), "invalid workspace auth token"),
        (org, "invalid workspace auth token"),
        (agent_of(WorkspaceFactory().pk), "invalid workspace auth token"),
        (anonymous(), "missing workspace auth token"),
    ):
        answer = caller.get(path)
        assert (answer.status_code, answer.json()) == (401, {"error": text})


def test_one_unreadable_secret_withholds_all_and_all_of_them_are_named(
    workspace: Workspace, settings: Any
) -> None:
    put(admin(), "/settings/secrets", "LOST", "x")
    put(admin(), secrets_of(workspace), "LOST", "y")
    put(admin(), secrets_of(workspace), "GONE", "y")
    settings.SECRETS_ENCRYPTION_KEY = "n" * 32
    put(admin(), secrets_of(workspace), "FINE", "z")
    answer = agent_of(workspace.pk).get(f"{secrets_of(workspace)}/values")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "one or more secrets failed to decrypt; refusing to return partial bundle",
        "failed_keys": ["global:LOST", "workspace:GONE", "workspace:LOST"],
    }
    assert answer["Cache-Control"] == "no-store"


def test_a_value_is_stored_sealed_and_never_told_or_logged(
    workspace: Workspace, caplog: Any, capsys: Any
) -> None:
    said = [
        put(admin(), path, "KEY", "s3cret-value") for path in (secrets_of(workspace), "/settings/secrets")
    ]
    said += [admin().get(path) for path in (secrets_of(workspace), "/settings/secrets", "/admin/secrets")]
    assert all(b"s3cret-value" not in answer.content for answer in said)
    for row in (WorkspaceSecret.objects.get(), GlobalSecret.objects.get()):
        assert row.encryption_version == 1
        assert b"s3cret-value" not in bytes(row.encrypted_value)
    assert "s3cret-value" not in caplog.text + capsys.readouterr().out


def test_saving_again_replaces_and_deleting_works_once(workspace: Workspace) -> None:
    own, shared = secrets_of(workspace), "/settings/secrets"
    for path in (own, shared):
        assert admin().put(path, {"key": "KEY", "value": "one"}).status_code == 200
        before = admin().get(path).json()[0]
        assert put(admin(), path, "KEY", "two").status_code == 200
        after = admin().get(path).json()[0]
        assert after["created_at"] == before["created_at"]
        assert after["updated_at"] > before["updated_at"]
    assert agent_of(workspace.pk).get(f"{own}/values").json() == {"KEY": "two"}
    assert admin().delete(f"{own}/KEY").json() == {"status": "deleted", "key": "KEY"}
    assert admin().delete(f"{shared}/KEY").json() == {"status": "deleted", "key": "KEY", "scope": "global"}
    for path in (own, shared, "/admin/secrets"):
        answer = admin().delete(f"{path}/KEY")
        assert (answer.status_code, answer.json()) == (404, {"error": "secret not found"})


def test_a_secret_may_be_called_values(workspace: Workspace) -> None:
    put(admin(), secrets_of(workspace), "values", "x")
    assert admin().delete(f"{secrets_of(workspace)}/values").json() == {"status": "deleted", "key": "values"}


def test_the_two_names_of_the_global_routes_are_one(workspace: Workspace) -> None:
    assert put(admin(), "/admin/secrets", "KEY", "x").status_code == 200
    assert admin().get("/settings/secrets").json() == admin().get("/admin/secrets").json()
    assert admin().delete("/admin/secrets/KEY").status_code == 200
    assert admin().get("/settings/secrets").json() == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "key and value are required"),
        ({"key": "K"}, "key and value are required"),
        ({"key": "K", "value": ""}, "key and value are required"),
        ({"key": "", "value": "x"}, "key and value are required"),
        ({"key": "K", "value": 7}, "key and value are required"),
        ({"key": "K", "value": None}, "key and value are required"),
        ({"key": "1K", "value": "x"}, "invalid key"),
        ({"key": "A-B", "value": "x"}, "invalid key"),
        ({"key": "KEY\n", "value": "x"}, "invalid key"),
        ({"key": "Ä", "value": "x"}, "invalid key"),
        ({"key": "K" * 129, "value": "x"}, "invalid key"),
        ({"key": "K", "value": "a\x00b"}, "value must not contain NUL characters"),
        ({"key": "K", "value": "x" * 65_537}, "value too large (64 KiB at most)"),
        ({"key": "K", "value": "ä" * 32_769}, "value too large (64 KiB at most)"),
        *[({"key": key, "value": "x"}, "reserved key") for key in sorted(RESERVED_KEYS)],
    ],
)
def test_what_is_no_secret_is_refused(workspace: Workspace, body: Any, text: str) -> None:
    for path in (secrets_of(workspace), "/settings/secrets", "/admin/secrets"):
        answer = admin().post(path, body)
        assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert not WorkspaceSecret.objects.exists()
    assert not GlobalSecret.objects.exists()


def test_the_largest_ones_are_taken(workspace: Workspace) -> None:
    for key, value in (("K" * 128, " x "), ("_", "x" * 65_536)):
        assert put(admin(), secrets_of(workspace), key, value).status_code == 200
    assert agent_of(workspace.pk).get(f"{secrets_of(workspace)}/values").json()["K" * 128] == " x "


def test_who_may(workspace: Workspace) -> None:
    other = agent_of(WorkspaceFactory().pk)
    for caller in (anonymous(), other):
        assert caller.get(secrets_of(workspace)).status_code == 401
        assert put(caller, secrets_of(workspace), "K", "v").status_code == 401
        assert caller.delete(f"{secrets_of(workspace)}/K").status_code == 401
    for caller in (anonymous(), agent_of(workspace.pk)):
        for path in ("/settings/secrets", "/admin/secrets"):
            assert caller.get(path).status_code == 401
            assert put(caller, path, "K", "v").status_code == 401
            assert caller.delete(f"{path}/K").status_code == 401
        assert caller.post("/secrets/validate", {"provider": "x", "key": "y"}).status_code == 401
    forged = Api(HTTP_ORIGIN="http://testserver", HTTP_REFERER="http://testserver/")
    assert forged.get("/settings/secrets").status_code == 401
    assert forged.get(secrets_of(workspace)).status_code == 401


def test_an_unknown_workspace_has_none() -> None:
    for workspace_id in (uuid4(), WorkspaceFactory(status=Status.REMOVED).pk):
        answer = put(admin(), f"/workspaces/{workspace_id}/secrets", "K", "v")
        assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})
    assert put(admin(), "/workspaces/global/secrets", "K", "v").json() == {"error": "invalid workspace ID"}


def test_nobody_here_validates_a_provider_key() -> None:
    answer = admin().post("/secrets/validate", {"provider": "openai", "key": "x"})
    assert (answer.status_code, answer.json()) == (501, {"error": "not supported"})


def test_who_depends_on_a_secret(workspace: Workspace) -> None:
    other = WorkspaceFactory()
    WorkspaceFactory(status=Status.REMOVED)
    put(admin(), "/settings/secrets", "KEY", "x")
    both = {str(workspace.pk), str(other.pk)}
    assert set(admin().get("/settings/secrets/KEY/dependents").json()["dependents"]) == both
    put(admin(), secrets_of(workspace), "KEY", "y")
    assert admin().get("/settings/secrets/KEY/dependents").json() == {"dependents": [str(other.pk)]}
    own = admin().get(f"{secrets_of(workspace)}/KEY/dependents").json()
    assert own == {"dependents": [str(workspace.pk)]}
    assert admin().get(f"{secrets_of(other)}/KEY/dependents").json() == {"dependents": []}
    assert admin().get("/settings/secrets/NONE/dependents").json() == {"dependents": []}


# --- Restarts


def test_a_changed_secret_restarts_its_workspace_and_the_same_value_does_not(workspace: Workspace) -> None:
    put(admin(), secrets_of(workspace), "K", "one")
    assert restarted() == {workspace.pk}
    put(admin(), secrets_of(workspace), "K", "one")
    assert restarted() == set()
    put(admin(), secrets_of(workspace), "K", "two")
    assert restarted() == {workspace.pk}
    admin().delete(f"{secrets_of(workspace)}/K")
    assert restarted() == {workspace.pk}
    admin().delete(f"{secrets_of(workspace)}/K")
    assert restarted() == set()


def test_an_agent_that_writes_its_own_secret_is_not_restarted(workspace: Workspace) -> None:
    agent = agent_of(workspace.pk)
    put(agent, secrets_of(workspace), "K", "one")
    agent.delete(f"{secrets_of(workspace)}/K")
    assert restarted() == set()


def test_a_header_does_not_make_somebody_the_agent(workspace: Workspace) -> None:
    put(Api(ADMIN_TOKEN, HTTP_X_WORKSPACE_ID=str(workspace.pk)), secrets_of(workspace), "K", "one")
    assert restarted() == {workspace.pk}


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.PAUSED},
        {"status": Status.HIBERNATED},
        {"status": Status.HIBERNATING},
        {"runtime": EXTERNAL},
    ],
)
def test_what_does_not_run_here_is_not_restarted(fields: dict[str, Any]) -> None:
    workspace = WorkspaceFactory(**{"status": Status.ONLINE, **fields})
    assert put(admin(), secrets_of(workspace), "K", "one").status_code == 200
    put(admin(), "/settings/secrets", "G", "one")
    assert restarted() == set()


def test_a_global_secret_restarts_exactly_its_readers(workspace: Workspace) -> None:
    offline = WorkspaceFactory(status=Status.OFFLINE)
    failed = WorkspaceFactory(status=Status.FAILED, last_sample_error="boom")
    overriding = WorkspaceFactory(status=Status.ONLINE)
    put(agent_of(overriding.pk), secrets_of(overriding), "K", "own")
    WorkspaceFactory(status=Status.PAUSED)
    WorkspaceFactory(status=Status.REMOVED)
    WorkspaceFactory(status=Status.ONLINE, runtime=EXTERNAL)
    readers = {workspace.pk, offline.pk, failed.pk}
    put(admin(), "/settings/secrets", "K", "one")
    assert restarted() == readers
    put(admin(), "/settings/secrets", "K", "one")
    assert restarted() == set()
    put(admin(), "/admin/secrets", "K", "two")
    assert restarted() == readers
    admin().delete("/settings/secrets/K")
    assert restarted() == readers


def test_a_workspace_that_sets_a_global_secret_in_the_hatch_is_not_restarted(
    workspace: Workspace, settings: Any
) -> None:
    settings.MOLECULE_DEV_OPEN, settings.MOLECULE_ENV, settings.ADMIN_TOKEN = True, "development", ""
    other = WorkspaceFactory(status=Status.ONLINE)
    agent = agent_of(workspace.pk)
    assert put(agent, "/settings/secrets", "K", "one").status_code == 200
    assert restarted() == {other.pk}
    agent.delete("/settings/secrets/K")
    assert restarted() == {other.pk}


@pytest.mark.django_db(transaction=True)
def test_of_many_that_save_one_value_at_once_one_changed_it() -> None:
    workspace = WorkspaceFactory(status=Status.ONLINE)
    set_workspace_secret(workspace_id=workspace.pk, key="K", value="old", by_its_agent=True)

    def save() -> bool:
        return set_workspace_secret(workspace_id=workspace.pk, key="K", value="new", by_its_agent=False)

    assert sorted(at_once(*[save] * 6)) == [*[False] * 5, True]


@pytest.mark.django_db(transaction=True)
def test_a_change_whose_restart_cannot_be_asked_for_is_not_made(monkeypatch: Any) -> None:
    workspace = WorkspaceFactory(status=Status.ONLINE)

    def broken(workspace_id: UUID, key: str) -> None:
        raise RuntimeError

    monkeypatch.setattr(hooks, "secret_changed", [broken])
    with pytest.raises(RuntimeError):
        set_workspace_secret(workspace_id=workspace.pk, key="K", value="v", by_its_agent=False)
    assert not WorkspaceSecret.objects.exists()
    set_workspace_secret(workspace_id=workspace.pk, key="K", value="v", by_its_agent=True)
    with pytest.raises(RuntimeError):
        remove_workspace_secret(workspace_id=workspace.pk, key="K", by_its_agent=False)
    assert WorkspaceSecret.objects.exists()


def test_a_token_of_another_workspace_is_no_agent_of_this_one(workspace: Workspace, settings: Any) -> None:
    other = WorkspaceFactory()
    token = mint_token(workspace_id=other.pk, kind=TokenKind.API)
    assert put(Api(token), secrets_of(workspace), "K", "v").status_code == 401
    assert restarted() == set()
