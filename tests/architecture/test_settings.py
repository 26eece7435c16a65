"""The environment is read in one place, and what is read is documented."""

from __future__ import annotations

import re
from pathlib import Path

from django.conf import settings

from config.settings import env as declared_settings
from console.management.commands.settings_table import table

ROOT = Path(settings.BASE_DIR)
PRODUCT = [
    "config",
    "access",
    "activity",
    "workspaces",
    "approvals",
    "memory",
    "memory_store",
    "uploads",
    "templates",
    "provisioning",
    "a2a",
    "delegations",
    "chat_channels",
    "schedules",
    "orgimport",
    "console",
]
# Readers of the environment besides config/: each with its reason.
READERS = {
    "config/env.py": "the one reading",
    "config/asgi.py": "names the settings module before Django is there",
    "config/celery.py": "names the settings module before Django is there",
    "config/wsgi.py": "names the settings module before Django is there",
    "console/management/commands/ensure_admin.py": "Django's own DJANGO_SUPERUSER_* convention",
    "memory_store/plugin.py": "names the settings module of its own process",
    "provisioning/backends/process.py": "PATH and LANG of the agents it starts",
}


def test_the_documented_table_is_the_declared_one():
    assert (ROOT / "docs/reference/settings.md").read_text() == table(), "run: manage.py settings_table"


def environment_readers() -> set[str]:
    found = set()
    for room in PRODUCT:
        for path in (ROOT / room).rglob("*.py"):
            if re.search(r"os\.environ|os\.getenv|environ\.(?:Env|FileAwareEnv)\(\)", path.read_text()):
                found.add(str(path.relative_to(ROOT)))
    return found


def test_nobody_else_reads_the_environment():
    unknown = environment_readers() - set(READERS) - {"config/settings.py"}
    assert not unknown, f"declare a variable in config/settings.py instead: {sorted(unknown)}"


def test_no_exemption_is_stale():
    assert set(READERS) <= environment_readers(), "remove what no longer reads the environment"


def test_every_secret_is_found_by_its_name():
    """A start compares what an agent is to be given with the server's own secrets, by these names."""
    secrets = [name for name, variable in declared_settings.declared.items() if variable.secret]
    assert len(secrets) > 5
    assert [name for name in secrets if not hasattr(settings, name)] == []
