"""The import rules hold, and each of them fires on a violation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
ROOMS = [
    "config",
    "activity",
    "access",
    "workspaces",
    "approvals",
    "memory",
    "memory_store",
    "provisioning",
    "a2a",
    "console",
]
ROOMS += [
    "delegations",
    "chat_channels",
    "schedules",
    "orgimport",
    "templates",
    "uploads",
    "agent",
    "stack",
    "bench",
]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms and the rules in a folder of their own, to be broken."""
    folder = tmp_path_factory.mktemp("rooms")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_rooms_keep_the_rules(copy: Path):
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("path", "line", "rule"),
    [
        ("access/services/tokens.py", "from workspaces.models import Workspace", "one order of rooms"),
        ("workspaces/services/crud.py", "from provisioning import dispatch", "one order of rooms"),
        ("workspaces/selectors.py", "from workspaces import services", "inside a room"),
        ("activity/services.py", "import rest_framework", "domain code knows no HTTP framework"),
        (
            "a2a/services/queue.py",
            "from provisioning.backends import base",
            "only provisioning knows a backend",
        ),
        ("agent/client.py", "import django", "the agent and the supervisor know no Django"),
        ("agent/client.py", "import stack", "the agent and the supervisor stand alone"),
    ],
)
def test_a_broken_rule_is_named(copy: Path, path: str, line: str, rule: str):
    module = copy / path
    before = module.read_text()
    module.write_text(f"{before}\n{line}\n")
    try:
        result = lint(copy)
    finally:
        module.write_text(before)
    assert result.returncode == 1
    assert f"{rule} BROKEN" in result.stdout
