"""The channels that a node declares, judged: what can be stored, and why the rest cannot.

Values are never part of a reason, and never logged. Source: docs/reference/orgimport.md, Channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chat_channels.adapters import ADAPTERS
from chat_channels.configs import scalar, users
from chat_channels.sealing import MASK
from chat_channels.services import NewChannel, valid_config
from config.errors import BadRequest
from orgimport.env_files import unresolved
from orgimport.nodes import allowed_variables
from orgimport.template import Node

EMPTY_TYPE = "empty type"
UNKNOWN = "unknown adapter"
AGAIN = "declared again below"


class _Skipped(Exception):
    """The reason."""


@dataclass(frozen=True)
class Declared:
    """`skipped` are (type, reason) in the order of the template."""

    ready: tuple[NewChannel, ...]
    skipped: tuple[tuple[str, str], ...]


def declared(node: Node, workspace_id: UUID) -> Declared:
    """Of two channels of one provider the later counts: a workspace has one."""
    ready: dict[str, NewChannel] = {}
    skipped: list[tuple[str, str]] = []
    for given in node.channels:
        kind = given.get("type")
        shown = kind.strip() if isinstance(kind, str) else ""
        try:
            channel = _channel(node, workspace_id, shown, given)
        except _Skipped as skip:
            skipped.append((shown, str(skip)))
            continue
        if ready.pop(shown, None):
            skipped.append((shown, AGAIN))
        ready[shown] = channel
    return Declared(tuple(ready.values()), tuple(skipped))


def _channel(node: Node, workspace_id: UUID, kind: str, given: Mapping[str, Any]) -> NewChannel:
    if not kind:
        raise _Skipped(EMPTY_TYPE)
    adapter = ADAPTERS.get(kind)
    if adapter is None:
        raise _Skipped(UNKNOWN)
    config, allowed = given.get("config") or {}, given.get("allowed_users") or []
    enabled = given.get("enabled")
    if not isinstance(config, Mapping) or not isinstance(allowed, list):
        raise _Skipped("config must be a mapping, and allowed_users a list")
    if not isinstance(enabled, bool | None):
        raise _Skipped("enabled must be true or false")
    try:
        expanded = _expanded({str(key): value for key, value in config.items()}, node.env)
        if any(expanded.get(key) == MASK for key in adapter.sensitive):
            raise _Skipped("a masked value is no value")
        plain = valid_config(adapter, expanded)
        who = users(allowed)
    except BadRequest as error:
        raise _Skipped(error.text) from None
    return NewChannel(workspace_id, kind, plain, tuple(who), enabled is not False)


def _expanded(config: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Every value as text, its variables replaced. Raises _Skipped for those without a value, BadRequest."""
    variables = {**allowed_variables(), **env}
    texts = {key: scalar(f"config.{key}", value) for key, value in config.items() if value is not None}
    values, missing = {}, []
    for key, text in texts.items():
        values[key], placeholders = unresolved(text, variables)
        missing += placeholders
    if missing:
        raise _Skipped(f"missing env: [{', '.join(dict.fromkeys(missing))}]")
    return values
