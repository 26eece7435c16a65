"""Tokens and secrets in the database."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Any

import pytest

from access.models import GlobalSecret, TokenKind, WorkspaceAuthToken, WorkspaceSecret
from access.services import (
    SecretUnreadable,
    ever_had_a_token,
    has_live_instance_token,
    mint_token,
    revoke_tokens,
    secret_environment,
    store_secrets,
)
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def workspace() -> Workspace:
    return WorkspaceFactory()


def test_a_token_has_43_characters_and_only_its_hash_is_stored(workspace: Workspace) -> None:
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    row = WorkspaceAuthToken.objects.get()
    assert len(token) == 43
    assert "=" not in token
    assert bytes(row.token_hash) == hashlib.sha256(token.encode()).digest()
    assert (row.prefix, row.kind, row.generation) == (token[:8], "api", None)


def test_a_minted_token_is_not_logged(workspace: Workspace, caplog: Any, capsys: Any) -> None:
    token = mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    output = caplog.text + capsys.readouterr().out
    assert token not in output
    assert token[8:] not in output


def test_revoking_is_by_kind_and_generation(workspace: Workspace) -> None:
    mint_token(workspace_id=workspace.pk, kind=TokenKind.API)
    for generation in (1, 2, None):
        mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE, generation=generation)
    revoked = revoke_tokens(workspace_id=workspace.pk, kind=TokenKind.INSTANCE, below_generation=2)
    assert revoked == 2
    live = WorkspaceAuthToken.objects.live().values_list("kind", "generation")
    assert set(live) == {("api", None), ("instance", 2)}
    assert revoke_tokens(workspace_id=workspace.pk) == 2


def test_a_workspace_without_live_tokens_still_had_one(workspace: Workspace) -> None:
    assert not ever_had_a_token(workspace.pk)
    mint_token(workspace_id=workspace.pk, kind=TokenKind.INSTANCE, generation=4)
    assert has_live_instance_token(workspace.pk, 4)
    assert not has_live_instance_token(workspace.pk, 5)
    revoke_tokens(workspace_id=workspace.pk)
    assert ever_had_a_token(workspace.pk)
    assert not has_live_instance_token(workspace.pk)


def test_a_workspace_gets_the_global_secrets_overlaid_by_its_own(workspace: Workspace, settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = ""
    for key in ("SHARED", "BOTH"):
        GlobalSecret.objects.create(key=key, encrypted_value=b"global")
    settings.SECRETS_ENCRYPTION_KEY = base64.b64encode(os.urandom(32)).decode()
    store_secrets(workspace_id=workspace.pk, values={"BOTH": "own", "MINE": "x"})
    assert secret_environment(workspace.pk) == {"SHARED": "global", "BOTH": "own", "MINE": "x"}


def test_storing_again_replaces_the_value_and_seals_it(workspace: Workspace, settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = ""
    store_secrets(workspace_id=workspace.pk, values={"K": "old"})
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    store_secrets(workspace_id=workspace.pk, values={"K": "new"})
    row = WorkspaceSecret.objects.get()
    assert row.encryption_version == 1
    assert secret_environment(workspace.pk) == {"K": "new"}


def test_one_unreadable_secret_withholds_all_and_is_named(workspace: Workspace, settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    store_secrets(workspace_id=workspace.pk, values={"GOOD": "x", "K": "y"})
    WorkspaceSecret.objects.filter(key="K").update(encrypted_value=b"damaged beyond repair")
    with pytest.raises(SecretUnreadable) as failure:
        secret_environment(workspace.pk)
    assert (failure.value.scope, failure.value.key) == ("workspace", "K")
