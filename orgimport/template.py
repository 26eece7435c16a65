"""What an org template says once it has been read and judged: values only, nothing of files or tables.

Source: docs/reference/orgimport.md, The template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from schedules.services import Declared


@dataclass(frozen=True, order=True)
class Requirement:
    """Variables of which one must be set; a strict one names a single variable."""

    members: tuple[str, ...]  # sorted, never empty
    is_strict: bool

    def shown(self) -> Any:
        return self.members[0] if self.is_strict else {"any_of": list(self.members)}


def is_requirement(value: Any) -> bool:
    """Whether `value` has the shape of one; the names in it may still be none."""
    if isinstance(value, str):
        return True
    members = value.get("any_of") if isinstance(value, Mapping) else None
    return isinstance(members, list) and bool(members) and all(isinstance(name, str) for name in members)


def step(name: str) -> str:
    """A name as one step of a path, `~` as `~0` and `/` as `~1` (RFC 6901): no two nodes have one path."""
    return name.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True)
class Problem:
    """Why a template cannot be imported: the node's path ('' is the template itself), the key, the reason."""

    path: str
    field: str
    message: str

    def shown(self) -> dict[str, str]:
        return {"path": self.path, "field": self.field, "message": self.message}


@dataclass(frozen=True)
class Schedules:
    """What a workspace is to have, and why some of what was declared will be missing: (name, reason)."""

    declared: tuple[Declared, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Node:
    """One workspace to be, with what it inherits; `path` are the steps from its root, joined by slashes."""

    name: str
    path: str
    role: str | None
    runtime: str
    tier: int
    model: str
    template: str | None
    files_dir: str | None
    system_prompt: str
    initial_prompt: str
    idle_prompt: str
    idle_interval_s: int
    workspace_dir: str | None
    workspace_access: str
    max_concurrent_tasks: int
    plugins: tuple[str, ...]
    category_routing: Mapping[str, list[str]]
    memories: tuple[Mapping[str, Any], ...]
    schedules: Schedules
    channels: tuple[Mapping[str, Any], ...]
    url: str
    canvas: tuple[float, float] | None
    is_spawned: bool
    required_env: tuple[Any, ...]
    recommended_env: tuple[Any, ...]
    env: Mapping[str, str] = field(repr=False)  # of its env files; never logged
    children: tuple[Node, ...] = ()

    @property
    def spawned(self) -> tuple[Node, ...]:
        return tuple(child for child in self.children if child.is_spawned)

    def with_spawned(self) -> Iterator[Node]:
        """Itself and what is to be below it; nothing when it is not spawned."""
        return _walk((self,), only_spawned=True)


@dataclass(frozen=True)
class OrgTemplate:
    """A template that can be imported; `key` is what its rows remember of where they come from."""

    key: str
    name: str
    description: str
    roots: tuple[Node, ...]
    required_env: tuple[Any, ...]
    recommended_env: tuple[Any, ...]
    env: Mapping[str, str] = field(repr=False)
    global_memories: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[dict[str, str], ...] = ()

    def every(self) -> Iterator[Node]:
        """All nodes that are declared, parents before their children."""
        return _walk(self.roots)

    def spawned(self) -> Iterator[Node]:
        """Those that become workspaces: a node that is not spawned takes its subtree with it."""
        return _walk(self.roots, only_spawned=True)


def _walk(nodes: tuple[Node, ...], *, only_spawned: bool = False) -> Iterator[Node]:
    for node in nodes:
        if node.is_spawned or not only_spawned:
            yield node
            yield from _walk(node.children, only_spawned=only_spawned)
