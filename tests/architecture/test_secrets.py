"""Secrets are sealed in one place: whoever else inserts one may lose its key's version."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.architecture.test_inserts import ROOMS

ROOT = Path(settings.BASE_DIR)
HELPER = "access/services/secrets.py"
MODELS = {"WorkspaceSecret", "GlobalSecret"}
INSERT = re.compile(r"(?i)INSERT\s+INTO\s+\"?(workspace|global)_secrets\"?\s*(AS\s+\w+\s*)?\(")
CREATES = re.compile(r"^a?(bulk_)?create$|^a?(get|update)_or_create$")


def insertions(source: str) -> list[int]:
    """The lines on which a module makes rows of secrets."""
    tree = ast.parse(source)
    names = set(_names(tree))
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and INSERT.search(node.value):
            lines.add(node.lineno)
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in names:
            lines.add(node.lineno)
        elif isinstance(node.func, ast.Attribute) and CREATES.match(node.func.attr):
            base = ast.unparse(node.func.value)
            if any(base.startswith(f"{name}.") for name in names):
                lines.add(node.lineno)
    return sorted(lines)


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "access.models":
            yield from (one.asname or one.name for one in node.names if one.name in MODELS)
        elif isinstance(node, ast.ImportFrom) and node.module == "access":
            modules = [one.asname or one.name for one in node.names if one.name == "models"]
            yield from (f"{module}.{model}" for module in modules for model in MODELS)
        elif isinstance(node, ast.Assign) and _is_looked_up(node.value):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _is_looked_up(value: ast.expr) -> bool:
    """`apps.get_model("access", "GlobalSecret")`"""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).endswith("get_model")):
        return False
    texts = [str(one.value) for one in value.args if isinstance(one, ast.Constant)]
    return bool(MODELS & {part for one in texts for part in one.split(".")})


def test_only_the_helper_inserts_secrets():
    files = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    found = {str(path.relative_to(ROOT)): insertions(path.read_text()) for path in files}
    assert found.pop(HELPER), "the scan has lost its way"
    assert {path: lines for path, lines in found.items() if lines} == {}


HEAD = "from access.models import WorkspaceSecret, GlobalSecret as G\nfrom access import models\n"


@pytest.mark.parametrize(
    "source",
    [
        "WorkspaceSecret.objects.create(key='x')",
        "G.objects.bulk_create(rows)",
        "WorkspaceSecret.objects.using('a').update_or_create(key='x')",
        "G(key='x').save()",
        "models.WorkspaceSecret.objects.get_or_create(key='x')",
        "cursor.execute('INSERT INTO workspace_secrets (key) VALUES (1)')",
        "SQL = f'  insert into global_secrets AS s (key) VALUES ({x})'",
        "Old = apps.get_model('access', 'GlobalSecret'); Old.objects.create(key='x')",
    ],
)
def test_the_gate_fires(source: str):
    assert insertions(HEAD + source) == [3]


@pytest.mark.parametrize(
    "source",
    [
        "WorkspaceSecret.objects.filter(key='x').delete()",
        "G.objects.filter(pk=1).exists()",
        "WorkspaceToken.objects.create()",
        "cursor.execute('SELECT 1 FROM workspace_secrets')",
        "cursor.execute('INSERT INTO workspace_secrets_audit (key) VALUES (1)')",
    ],
)
def test_the_gate_leaves_reads_alone(source: str):
    assert insertions(HEAD + source) == []
