"""The three org templates that ship, in a catalogue of the test's own, and small ones written by a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from access.services import save_global_secret
from provisioning import dispatch
from tests.clients import admin

SHIPPED = Path(django_settings.BASE_DIR) / "templates" / "catalogue"
Put = Callable[[str, str], Path]


@pytest.fixture
def catalogue(settings: Any) -> Path:
    """The folder of the org templates, filled with those that ship."""
    base = Path(settings.CONFIGS_DIR).parent
    shutil.copytree(SHIPPED, base, dirs_exist_ok=True)
    return base / "org-templates"


@pytest.fixture
def put(catalogue: Path) -> Put:
    """Write a file below the folder of the org templates."""

    def write(path: str, text: str) -> Path:
        target = catalogue / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    return write


@pytest.fixture
def keys() -> None:
    """Everything that the shipped templates require is set."""
    for key in ("ANTHROPIC_API_KEY", "GITHUB_TOKEN", "SCANNER_TOKEN"):
        save_global_secret(key=key, value="a value")


@pytest.fixture(autouse=True)
def _no_backend() -> Any:
    """A test that wants compute wires a backend of its own."""
    dispatch.wire(None)
    yield
    dispatch.choose_again()


def post(**body: Any) -> Any:
    return admin().post("/org/import", body)


def tree(nodes: int, *, width: int = 10, name: str = "Wide", external: bool = False) -> dict[str, Any]:
    """An inline template of so many nodes, each with `width` children."""
    made = [{"name": f"Node {number}", "external": external, "children": []} for number in range(nodes)]
    for number in range(1, nodes):
        made[(number - 1) // width]["children"].append(made[number])  # type: ignore[attr-defined]
    return {"name": name, "workspaces": [made[0]]}
