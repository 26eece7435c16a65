"""Only verbs write: no view, serializer, consumer, task, admin page, selector or check touches a table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
ROOMS = [
    "activity",
    "access",
    "approvals",
    "memory",
    "memory_store",
    "workspaces",
    "templates",
    "uploads",
    "memory",
    "memory_store",
    "provisioning",
    "a2a",
    "delegations",
    "chat_channels",
    "schedules",
    "orgimport",
    "console",
]
# What parses, answers or reads. Everything else of a room is its verbs.
READERS = re.compile(
    r"(^|_)(views|serializers|consumers|tasks|admin|urls|selectors|models|feed|health|metrics|checks|permissions"
    r"|authentication|apps|hooks)\.py$"
)
ALWAYS = {
    "bulk_create",
    "bulk_update",
    "get_or_create",
    "update_or_create",
    "abulk_create",
    "asave",
    "adelete",
}
ON_ROWS = {"create", "update", "delete", "acreate", "aupdate"}
WRITES = re.compile(r"(?i)\b(INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM)\b")


def writes(source: str) -> list[tuple[int, str]]:
    """(line, what) of every write in one module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, base = node.func.attr, ast.unparse(node.func.value)
        on_rows = ".objects" in base or ".filter(" in base or "_manager" in base or base == "queryset"
        if (
            name in ALWAYS
            or (name in ON_ROWS and on_rows)
            or (name == "save" and base not in {"self", "super()"})
        ):
            found.append((node.lineno, f"{base}.{name}"))
        if name in {"execute", "executemany"} and WRITES.search(ast.unparse(node)):
            found.append((node.lineno, "execute"))
    return found


def readers() -> list[Path]:
    return [
        path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if READERS.search(path.name) and "management" not in path.parts
    ]


def test_readers_do_not_write():
    assert len(readers()) > 20
    found = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in readers()
        for line, what in writes(path.read_text())
    ]
    assert not found, "move the write into a service: " + "; ".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "Workspace.objects.create(name='x')",
        "Workspace.objects.filter(pk=1).update(name='x')",
        "queryset.delete()",
        "row.save()",
        "Workspace.objects.bulk_create([])",
        "cursor.execute('UPDATE workspaces SET name = 1')",
        "cursor.execute('DELETE FROM workspaces')",
    ],
)
def test_the_gate_fires(source: str):
    assert writes(source)


@pytest.mark.parametrize(
    "source",
    ["body.update(x=1)", "services.create_workspace(x)", "cursor.execute('SELECT 1')", "super().save(*args)"],
)
def test_the_gate_leaves_reads_alone(source: str):
    assert not writes(source)
