"""`manage.py reencrypt_secrets`: after a new key was added, everything sealed is sealed under it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from access.ciphers import newest_version
from access.services import reencrypt_secrets
from chat_channels.services import reseal_channels
from workspaces.services import reseal_inbound_secrets


class Command(BaseCommand):
    help = "Seals every stored secret under the newest configured key; may be run again at any time."

    def handle(self, *args: Any, **options: Any) -> None:
        done = reencrypt_secrets() + reseal_inbound_secrets() + reseal_channels()
        self.stdout.write(f"{done} secrets are now sealed with version {newest_version()}.")
