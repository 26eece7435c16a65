"""Storing what nodes declare as channels: many nodes in one statement, whatever their number.

Source: docs/reference/orgimport.md, Channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, transaction

from chat_channels.models import Channel
from chat_channels.services import NewChannel, SealingFailed, not_as_stored, upsert_channels
from orgimport.channels import Declared, declared
from orgimport.template import Node

log = structlog.get_logger(__name__)

UNSEALED = "channel config encryption failed"
REFUSED = "the database refused it or cannot be asked"


@dataclass(frozen=True)
class Kept:
    """What became of a node's channels: the types that are stored as declared, and (type, reason) of the
    others. `is_changed`: the manager has to load again.
    """

    types: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    is_changed: bool = False


NOTHING = Kept()


def store_channels(nodes: Iterable[tuple[UUID, Node]]) -> dict[UUID, Kept]:
    """Of new workspaces, inside the transaction that creates them. The database's errors are the level's."""
    return _stored(_judged(nodes))


def refresh_channels(nodes: Iterable[tuple[UUID, Node]]) -> dict[UUID, Kept]:
    """Of workspaces that were there: what is not as declared becomes so, nothing else is touched."""
    judged = _judged(nodes)
    wanted = [channel for one in judged.values() for channel in one.ready]
    if not wanted:
        return {key: Kept(skipped=one.skipped) for key, one in judged.items()}
    try:
        with transaction.atomic():
            return _stored(judged, only=not_as_stored(wanted))
    except (DatabaseError, InterfaceError):
        log.exception("import.channels_not_refreshed")
        refused = {
            key: tuple((channel.channel_type, REFUSED) for channel in one.ready)
            for key, one in judged.items()
        }
        return {key: Kept(skipped=one.skipped + refused[key]) for key, one in judged.items()}


def _judged(nodes: Iterable[tuple[UUID, Node]]) -> dict[UUID, Declared]:
    return {workspace_id: declared(node, workspace_id) for workspace_id, node in nodes if node.channels}


def _stored(judged: Mapping[UUID, Declared], only: Collection[NewChannel] | None = None) -> dict[UUID, Kept]:
    kept, rows = {}, []
    wanted = None if only is None else {(one.workspace_id, one.channel_type) for one in only}
    for workspace_id, one in judged.items():
        types, skipped, changed = [], list(one.skipped), False
        for channel in one.ready:
            if wanted is None or (workspace_id, channel.channel_type) in wanted:
                row = _row(channel)
                if row is None:
                    skipped.append((channel.channel_type, UNSEALED))
                    continue
                rows.append(row)
                changed = True
            types.append(channel.channel_type)
        kept[workspace_id] = Kept(tuple(types), tuple(skipped), changed)
    if rows:
        upsert_channels(rows)
    return kept


def _row(channel: NewChannel) -> Channel | None:
    try:
        return channel.row()
    except SealingFailed:
        return None
