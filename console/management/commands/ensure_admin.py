"""`manage.py ensure_admin`: the operators' first login exists and has the given password."""

from __future__ import annotations

import os
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Creates the superuser DJANGO_SUPERUSER_USERNAME, or sets its password; both from the environment."

    def handle(self, *args: Any, **options: Any) -> None:
        name = os.environ.get("DJANGO_SUPERUSER_USERNAME", "admin")
        password = os.environ.get("DJANGO_SUPERUSER_PASSWORD", "")
        if not password:
            raise CommandError("DJANGO_SUPERUSER_PASSWORD is not set")
        user, created = get_user_model().objects.get_or_create(
            username=name, defaults={"is_staff": True, "is_superuser": True}
        )
        if created or not user.check_password(password):
            user.set_password(password)
            user.save(update_fields=["password"])
        self.stdout.write(f"admin login {name!r} {'created' if created else 'present'}")
