"""What runs after a commit is a function with a name: when a robust hook fails, Django logs that name, and
one without it (`functools.partial`) fails the log, the hooks after it and the caller.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

ROOT = Path(settings.BASE_DIR)
ASIDE = {".venv", "tests", ".git"}


def nameless(source: str) -> Iterator[int]:
    """Lines where something else than a function or a lambda is left for after the commit."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "on_commit":
            hook = node.args[0]
            if not isinstance(hook, ast.Lambda | ast.Name | ast.Attribute):
                yield node.lineno


def test_every_hook_has_a_name():
    files = [path for path in ROOT.rglob("*.py") if ASIDE.isdisjoint(path.relative_to(ROOT).parts)]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in nameless(path.read_text())]
    assert files
    assert found == []


def test_a_hook_without_one_is_found():
    assert list(nameless("transaction.on_commit(partial(send, 1), robust=True)")) == [1]
    assert list(nameless("on_commit(lambda: send(1))\ntransaction.on_commit(send)")) == []
