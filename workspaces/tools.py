"""What a tool of the MCP bridge is; each room brings its own. Source: docs/reference/mcp.md, Tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from workspaces.models import Workspace

Arguments = Mapping[str, Any]


class ToolError(Exception):
    """What may be shown to the agent; anything else is `tool call failed`."""


@dataclass(frozen=True)
class Tool:
    """`call` gives the text for the agent, or what the bridge knows how to wait for."""

    call: Callable[[Workspace, Arguments], Any]
    description: str
    schema: dict[str, Any]


def text_of(given: Arguments, name: str) -> str:
    """Raises ToolError."""
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolError(f"{name} is required")
    return value


def shown(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def schema(required: str = "", optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON schema of arguments: the required ones, all texts, by name, then the others by schema."""
    names = required.split()
    texts = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": {**texts, **(optional or {})}, "required": names}
