"""Sensitive values at rest: which key, bound to what, and sealed anew under a new one."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction

from access.ciphers import CannotUnseal
from chat_channels.adapters import ADAPTERS
from chat_channels.models import Channel
from chat_channels.sealing import is_sealed_anew, plain_config, sealed_config
from chat_channels.services import create_channel, reseal_channels
from chat_channels.services.registry import opened
from tests.chat_channels.webhooks import CONFIGS
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db
TELEGRAM, SENSITIVE = CONFIGS["telegram"], ADAPTERS["telegram"].sensitive


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def made() -> Channel:
    return create_channel(workspace_id=WorkspaceFactory().pk, channel_type="telegram", config=TELEGRAM)


def test_a_deployment_without_a_key_writes_what_it_can_read_again(settings: Any):
    settings.SECRETS_ENCRYPTION_KEY = ""
    row = made()
    assert row.channel_config["bot_token"].startswith("ec0:")
    settings.SECRETS_ENCRYPTION_KEY = key()
    assert opened(Channel.objects.get()) == TELEGRAM


def test_a_new_key_seals_everything_anew_and_the_old_one_can_go(settings: Any, capsys: Any):
    made()
    made()
    settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key()}"]
    assert opened(Channel.objects.all()[0]) == TELEGRAM
    call_command("reencrypt_secrets")
    assert "2 secrets" in capsys.readouterr().out
    settings.SECRETS_ENCRYPTION_KEY = ""
    for row in Channel.objects.all():
        assert row.channel_config["bot_token"].startswith("ec2:")
        assert is_sealed_anew(row.channel_config, SENSITIVE)
        assert opened(row) == TELEGRAM
    assert reseal_channels() == 0


def test_one_that_cannot_be_read_is_left_and_the_others_are_sealed(settings: Any):
    broken, fine = made(), made()
    Channel.objects.filter(pk=broken.pk).update(channel_config={"bot_token": "ec1:AAAA"})
    settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key()}"]
    assert reseal_channels() == 1
    assert opened(Channel.objects.get(pk=fine.pk)) == TELEGRAM


def test_a_value_moved_to_another_place_is_not_read(settings: Any):
    settings.SECRETS_ENCRYPTION_KEYS = [f"2:{key()}"]
    first, second = WorkspaceFactory().pk, WorkspaceFactory().pk
    stored = sealed_config(TELEGRAM, SENSITIVE, first, "telegram")
    assert plain_config(stored, SENSITIVE, first, "telegram") == TELEGRAM
    swapped = {**stored, "bot_token": stored["webhook_secret"]}
    for config, owner, kind in (
        (stored, second, "telegram"),
        (stored, first, "slack"),
        (swapped, first, "telegram"),
    ):
        with pytest.raises(CannotUnseal):
            plain_config(config, SENSITIVE, owner, kind)


@pytest.mark.parametrize("value", ["", "plain", "ec1:", "ec1:%", "ecx:AAAA", "ec9:AAAA", "v1:AAAA"])
def test_what_is_no_sealed_value_is_never_taken_for_one(value: str):
    with pytest.raises(CannotUnseal):
        plain_config({"bot_token": value}, SENSITIVE, WorkspaceFactory().pk, "telegram")


@pytest.mark.parametrize(
    "columns",
    [{"channel_type": "fax"}, {"message_count": -1}, {"channel_budget": -1}],
    ids=["type", "count", "budget"],
)
def test_the_database_refuses_what_must_never_be(columns: dict[str, Any]):
    row = made()
    with pytest.raises(IntegrityError), transaction.atomic():
        Channel.objects.filter(pk=row.pk).update(**columns)
