"""System checks of the foundation: what must be set before anything starts, in one sentence each."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from config.posture import is_development, is_production
from config.settings import env


@register
def services_are_named(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if not settings.DATABASE_URL:
        found.append(
            Error(
                "DATABASE_URL is not set.",
                hint="Set it to a PostgreSQL 15+ address, or run `make up`, which starts a server.",
                id="config.E001",
            )
        )
    if not settings.DJANGO_SECRET_KEY:
        found.append(
            Error(
                "DJANGO_SECRET_KEY is not set.",
                hint="Set it to at least 50 random characters; `make up` generates one.",
                id="config.E002",
            )
        )
    if settings.MOLECULE_ENV and not (is_production() or is_development()):
        found.append(
            Warning(
                f"MOLECULE_ENV={settings.MOLECULE_ENV!r} is neither a development nor a production name.",
                hint="Use `production` or `development`, or leave it empty.",
                id="config.W001",
            )
        )
    return found


@register
def choices_are_known(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """PROVISIONER has a check of its own, with reasons."""
    return [
        Error(
            f"{name}={getattr(settings, name)!r} is not one of its values.",
            hint=f"Use one of {', '.join(options)}.",
            id="config.E003",
        )
        for name, options in env.choices.items()
        if name != "PROVISIONER" and getattr(settings, name) not in options
    ]
