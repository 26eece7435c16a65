"""Whether the memory plugin is to run beside the server, for whatever starts the processes."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from memory.config import is_sidecar_wanted
from memory_store import plugin_settings
from memory_store.plugin import Refused, address

NOT_WANTED = 3  # 1 is what a command that fails says
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Command(BaseCommand):
    """Exit status 0 and `host:port` to ask for its health; 3 when it is not wanted; anything
    else is an error."""

    help = __doc__
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not is_sidecar_wanted():
            sys.exit(NOT_WANTED)
        try:
            host, port = address(plugin_settings.MEMORY_PLUGIN_LISTEN_ADDR)
        except Refused as refused:
            self.stderr.write(f"memory-plugin: {refused}")
            sys.exit(2)
        self.stdout.write(f"{WILDCARDS.get(host, host)} {port}")
