"""`manage.py memory_plugin`: the store as a process of its own."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Serve the memory store over HTTP (MEMORY_PLUGIN_DATABASE_URL, MEMORY_PLUGIN_LISTEN_ADDR)."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """This process becomes the plugin's, whose settings know two tables only."""
        os.execv(sys.executable, [sys.executable, "-m", "memory_store.plugin"])  # noqa: S606  (no shell)
