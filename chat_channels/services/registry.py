"""The verbs over channels: create, change, delete, and many at once for an import.

Source: docs/reference/chat_channels.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from access.ciphers import CannotUnseal
from chat_channels.adapters import ADAPTERS
from chat_channels.adapters.base import Adapter
from chat_channels.configs import canonical, cleaned, users
from chat_channels.manager import reload_manager
from chat_channels.models import Channel
from chat_channels.sealing import MASK, is_sealed_anew, plain_config, sealed_config
from config.errors import BadRequest, Conflict, Internal, NotFound

log = structlog.get_logger(__name__)

UNIQUE = "workspace_channels_workspace_type_uniq"
RESEAL_BATCH = 200
_UPSERTED = ["channel_config", "allowed_users", "enabled", "updated_at"]


class SealingFailed(Internal):
    """The configured key is none: nothing is stored in clear instead."""

    def __init__(self) -> None:
        super().__init__("channel config encryption failed")


@dataclass(frozen=True)
class NewChannel:
    """A channel that has been judged: `config` is plain, cleaned and valid."""

    workspace_id: UUID
    channel_type: str
    config: Mapping[str, str] = field(repr=False)
    allowed_users: Sequence[str] = ()
    enabled: bool = True
    channel_budget: int | None = None

    def row(self) -> Channel:
        """Raises SealingFailed."""
        return Channel(
            workspace_id=self.workspace_id,
            channel_type=self.channel_type,
            channel_config=sealed(self.config, self.workspace_id, self.channel_type),
            allowed_users=list(self.allowed_users),
            enabled=self.enabled,
            channel_budget=self.channel_budget,
        )


def adapter_of(channel_type: str) -> Adapter:
    """Raises BadRequest."""
    adapter = ADAPTERS.get(channel_type)
    if adapter is None:
        raise BadRequest(f"unknown channel type, must be one of: {', '.join(ADAPTERS)}")
    return adapter


def valid_config(adapter: Adapter, given: Mapping[str, Any]) -> dict[str, str]:
    """The cleaned configuration. Raises BadRequest with the adapter's words."""
    config = cleaned(adapter, given)
    if complaint := adapter.validate(config):
        raise BadRequest(complaint)
    return config


def create_channel(
    *,
    workspace_id: UUID,
    channel_type: str,
    config: Mapping[str, Any],
    allowed_users: Sequence[Any] = (),
    enabled: bool = True,
    channel_budget: int | None = None,
) -> Channel:
    """Raises BadRequest, Conflict when the workspace has one with this provider, NotFound."""
    adapter = adapter_of(channel_type)
    plain = valid_config(adapter, config)
    if any(plain.get(key) == MASK for key in adapter.sensitive):
        raise BadRequest("config holds a mask where a value is needed")
    row = NewChannel(workspace_id, channel_type, plain, users(allowed_users), enabled, channel_budget).row()
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            reload_manager()
    except IntegrityError as error:
        if UNIQUE in str(error):
            raise Conflict(f"this workspace already has a {channel_type} channel") from None
        raise NotFound("workspace not found") from None  # purged meanwhile
    log.info("channel.created", channel_id=str(row.pk), workspace_id=str(workspace_id), type=channel_type)
    return row


@transaction.atomic
def update_channel(*, workspace_id: UUID, channel_id: UUID, changes: Mapping[str, Any]) -> None:
    """Change what is named. In `config` a mask keeps the stored value, a null or empty one removes it, and
    what is not named stays. Raises NotFound, BadRequest.
    """
    row = Channel.objects.select_for_update().filter(pk=channel_id, workspace_id=workspace_id).first()
    if row is None:
        raise NotFound("channel not found")
    columns: dict[str, Any] = {"updated_at": Now()}
    if "config" in changes:
        config = _merged(row, changes["config"])
        columns["channel_config"] = sealed(config, workspace_id, row.channel_type)
    if "allowed_users" in changes:
        columns["allowed_users"] = users(changes["allowed_users"])
    columns |= {name: changes[name] for name in ("enabled", "channel_budget") if name in changes}
    Channel.objects.filter(pk=channel_id).update(**columns)
    reload_manager()
    log.info("channel.updated", channel_id=str(channel_id), changed=sorted(changes))


@transaction.atomic
def delete_channel(*, workspace_id: UUID, channel_id: UUID) -> None:
    """Raises NotFound."""
    deleted, _ = Channel.objects.filter(pk=channel_id, workspace_id=workspace_id).delete()
    if not deleted:
        raise NotFound("channel not found")
    reload_manager()
    log.info("channel.deleted", channel_id=str(channel_id), workspace_id=str(workspace_id))


def get_channel(workspace_id: UUID, channel_id: UUID) -> Channel:
    """Raises NotFound, for another workspace's as for none."""
    row = Channel.objects.filter(pk=channel_id, workspace_id=workspace_id).first()
    if row is None:
        raise NotFound("channel not found")
    return row


def opened(row: Channel) -> dict[str, str]:
    """The plain configuration. Raises Internal."""
    sensitive = ADAPTERS[row.channel_type].sensitive
    try:
        return plain_config(row.channel_config, sensitive, row.workspace_id, row.channel_type)
    except CannotUnseal as error:
        log.error("channel.unreadable", channel_id=str(row.pk), cause=str(error))
        raise Internal("the channel's configuration cannot be decrypted; give its values anew") from None


def sealed(config: Mapping[str, str], workspace_id: UUID, channel_type: str) -> dict[str, str]:
    """Raises SealingFailed."""
    try:
        return sealed_config(config, ADAPTERS[channel_type].sensitive, workspace_id, channel_type)
    except ValueError:
        raise SealingFailed from None


# --- Many at once


@transaction.atomic
def upsert_channels(rows: Sequence[Channel]) -> None:
    """Insert or overwrite by (workspace, provider) in one statement. The caller reloads the manager, once for
    all it stores.
    """
    Channel.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["workspace", "channel_type"],
        update_fields=_UPSERTED,
    )


def not_as_stored(wanted: Sequence[NewChannel]) -> list[NewChannel]:
    """Those of `wanted` that are not stored exactly so; one statement."""
    rows = Channel.objects.filter(workspace_id__in={one.workspace_id for one in wanted})
    stored = {(row.workspace_id, row.channel_type): row for row in rows}
    return [one for one in wanted if not _is_stored(stored.get((one.workspace_id, one.channel_type)), one)]


def reseal_channels() -> int:
    """After a new key: seal every configuration under it. Returns how many; a second run changes nothing."""
    done, after = 0, UUID(int=0)
    while True:
        batch = list(Channel.objects.filter(pk__gt=after).order_by("pk")[:RESEAL_BATCH])
        done += sum(_reseal(row) for row in batch)
        if len(batch) < RESEAL_BATCH:
            return done
        after = batch[-1].pk


def _reseal(row: Channel) -> int:
    """Compare and set: one that was changed meanwhile is new already."""
    if is_sealed_anew(row.channel_config, ADAPTERS[row.channel_type].sensitive):
        return 0
    try:
        config = opened(row)
    except Internal:
        return 0
    here = Channel.objects.filter(pk=row.pk, channel_config=row.channel_config)
    return here.update(channel_config=sealed(config, row.workspace_id, row.channel_type))


def _is_stored(row: Channel | None, wanted: NewChannel) -> bool:
    if row is None or row.enabled != wanted.enabled or row.allowed_users != list(wanted.allowed_users):
        return False
    try:
        return opened(row) == dict(wanted.config)
    except Internal:
        return False


def _merged(row: Channel, given: Mapping[str, Any]) -> dict[str, str]:
    adapter = ADAPTERS[row.channel_type]
    kept = {
        key: value
        for key, value in given.items()
        if not (key in adapter.sensitive and value == MASK and key in row.channel_config)
    }
    named = {canonical(key) for key in kept}
    before = opened(row) if set(row.channel_config) - named else {}
    new = cleaned(adapter, kept)
    config = {key: value for key, value in before.items() if key not in named} | new
    if any(config.get(key) == MASK for key in adapter.sensitive):
        raise BadRequest("config holds a mask where a value is needed")
    if complaint := adapter.validate(config):
        raise BadRequest(complaint)
    return config
