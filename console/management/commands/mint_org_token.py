"""`manage.py mint_org_token --name ci`: the first org token, from the shell of the machine."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from access.serializers import MAX_NAME_CHARS
from access.services import Caller, mint_org_token
from config.errors import TooManyRequests


class Command(BaseCommand):
    help = "Mints an org API token and prints it, once. It opens every admin route until it is revoked."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True, help="what the token is for")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        if not name or len(name) > MAX_NAME_CHARS:
            raise CommandError(f"--name must have 1 to {MAX_NAME_CHARS} characters")
        try:
            minted = mint_org_token(caller=Caller(actor="command-line"), name=name)
        except TooManyRequests as error:
            raise CommandError(error.text) from None
        self.stdout.write(minted.plaintext)
