"""Keys come and go: what each version reads, what saving and sealing anew do to a row."""

from __future__ import annotations

import base64
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from access import ciphers
from access.checks import secrets_can_be_sealed
from access.ciphers import CannotUnseal, configured_keys, newest_version, seal, seal_text, unseal, unseal_text
from access.models import GlobalSecret, WorkspaceSecret
from access.services import read_secret, save_global_secret, save_secret, secret_environment, secrets
from tests.clients import agent_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace
from workspaces.services import inbound_secret


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


@pytest.fixture(autouse=True)
def _no_keys(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = ""
    settings.SECRETS_ENCRYPTION_KEYS = []


def test_the_highest_version_writes_and_every_version_reads(settings: Any) -> None:
    stored = {0: seal("text", "ws:1:K")}
    settings.SECRETS_ENCRYPTION_KEY = key("a")
    stored[1] = seal("text", "ws:1:K")
    settings.SECRETS_ENCRYPTION_KEYS = [f"3:{key('c')}", f"2:{key('b')}"]
    stored[3] = seal("text", "ws:1:K")
    assert {version: found for version, (_, found) in stored.items()} == {0: 0, 1: 1, 3: 3}
    for sealed, version in stored.values():
        assert unseal(sealed, version, "ws:1:K") == "text"
    assert newest_version() == 3


def test_a_later_key_binds_a_value_to_its_place(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key('b')}"]
    sealed, version = seal("text", "ws:1:K")
    for elsewhere in ("ws:2:K", "ws:1:L", "global:K", ""):
        with pytest.raises(CannotUnseal):
            unseal(sealed, version, elsewhere)
    text = seal_text("text", "ws:1:inbound")
    assert text.startswith("v2:")
    assert unseal_text(text, "ws:1:inbound") == "text"
    with pytest.raises(CannotUnseal):
        unseal_text(text, "ws:2:inbound")


def test_a_version_without_its_key_is_unreadable(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key('b')}"]
    sealed, version = seal("text")
    for keys in ([], [f"3:{key('b')}"], [f"2:{key('c')}"]):
        settings.SECRETS_ENCRYPTION_KEYS = keys
        with pytest.raises(CannotUnseal):
            unseal(sealed, version)


@pytest.mark.parametrize(
    "entries",
    [
        ["garbage"],
        ["2:garbage"],
        ["2:"],
        [f"1:{key('a')}"],
        [f"0:{key('a')}"],
        [f"-2:{key('a')}"],
        [f"x:{key('a')}"],
        [f"2:{key('a')}", f"2:{key('b')}"],
        [f"2:{key('a')}", "3:short"],
    ],
)
def test_an_entry_that_is_no_key_is_refused_at_boot_without_being_shown(
    settings: Any, entries: list[str]
) -> None:
    settings.SECRETS_ENCRYPTION_KEYS = entries
    with pytest.raises(ValueError, match="SECRETS_ENCRYPTION_KEYS"):
        configured_keys()
    for env in ("", "development", "production"):
        settings.MOLECULE_ENV = env
        (message,) = secrets_can_be_sealed(None)
        assert (message.id, message.is_serious()) == ("access.E001", True)
        assert key("a") not in message.msg


def test_a_later_key_alone_is_enough_in_production(settings: Any) -> None:
    settings.MOLECULE_ENV = "production"
    settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key('b')}"]
    assert secrets_can_be_sealed(None) == []


@pytest.fixture
def rows(settings: Any, db: None) -> Workspace:
    """A workspace with one secret and one inbound secret per version 0, 1 and 2, the same globally."""
    workspace = WorkspaceFactory()
    for number in range(3):
        if number == 1:
            settings.SECRETS_ENCRYPTION_KEY = key("a")
        if number == 2:
            settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key('b')}"]
        save_secret(workspace_id=workspace.pk, key=f"OWN_{number}", value=f"own {number}")
        save_global_secret(key=f"SHARED_{number}", value=f"shared {number}")
    return workspace


def versions() -> set[int]:
    found = set(WorkspaceSecret.objects.values_list("encryption_version", flat=True))
    return found | set(GlobalSecret.objects.values_list("encryption_version", flat=True))


def test_an_agent_reads_mixed_versions(rows: Workspace) -> None:
    assert versions() == {0, 1, 2}
    expected = {f"OWN_{number}": f"own {number}" for number in range(3)}
    expected |= {f"SHARED_{number}": f"shared {number}" for number in range(3)}
    assert agent_of(rows.pk).get(f"/workspaces/{rows.pk}/secrets/values").json() == expected


def test_saving_the_same_value_seals_it_anew_and_changes_nothing(rows: Workspace) -> None:
    assert save_secret(workspace_id=rows.pk, key="OWN_0", value="own 0") is False
    assert save_global_secret(key="SHARED_1", value="shared 1").is_changed is False
    assert WorkspaceSecret.objects.get(key="OWN_0").encryption_version == 2
    assert GlobalSecret.objects.get(key="SHARED_1").encryption_version == 2
    assert read_secret(rows.pk, "OWN_0") == "own 0"


def reencrypt() -> str:
    out = StringIO()
    call_command("reencrypt_secrets", stdout=out)
    return out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_everything_can_be_sealed_anew_so_that_the_old_key_may_go(
    rows: Workspace, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(secrets, "REENCRYPT_BATCH", 1)
    Workspace.objects.filter(pk=rows.pk).update(platform_inbound_secret="v0:aW5ib3VuZA==")
    before = secret_environment(rows.pk)
    assert reencrypt() == "5 secrets are now sealed with version 2.\n"
    assert versions() == {2}
    settings.SECRETS_ENCRYPTION_KEY = ""
    assert secret_environment(rows.pk) == before
    assert inbound_secret(rows.pk) == "inbound"
    assert reencrypt().startswith("0 ")


@pytest.mark.django_db(transaction=True)
def test_an_unreadable_row_does_not_stop_the_others(rows: Workspace, settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = key("z")  # version 1 is lost
    assert reencrypt().startswith("2 ")
    assert versions() == {1, 2}
    assert reencrypt().startswith("0 ")


@pytest.mark.django_db
def test_a_row_copied_to_another_workspace_is_unreadable_there(rows: Workspace) -> None:
    other = WorkspaceFactory()
    mine = WorkspaceSecret.objects.get(key="OWN_2")
    WorkspaceSecret.objects.create(
        workspace=other, key="OWN_2", encrypted_value=mine.encrypted_value, encryption_version=2
    )
    assert agent_of(other.pk).get(f"/workspaces/{other.pk}/secrets/values").json()["failed_keys"] == [
        "workspace:OWN_2"
    ]


def test_the_plain_version_is_the_lowest() -> None:
    assert ciphers.PLAIN < ciphers.SEALED < ciphers.FIRST_BOUND
