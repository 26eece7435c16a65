"""System checks of who may come in: an unsafe or contradictory setting is refused before anything serves."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from access.ciphers import configured_key
from access.credentials import hatch_is_open
from config.posture import is_production


@register
def secrets_can_be_sealed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    hint = "Set it to the base64 of 32 random bytes (`openssl rand -base64 32`)."
    try:
        key = configured_key()
    except ValueError as error:
        return [Error(f"{error}.", hint=hint, id="access.E001")]
    if key is None and is_production():
        return [Error("SECRETS_ENCRYPTION_KEY is not set in production.", hint=hint, id="access.E002")]
    if key is None:
        return [
            Warning(
                "Secrets are stored unencrypted: SECRETS_ENCRYPTION_KEY is not set.",
                hint=hint,
                id="access.W001",
            )
        ]
    return []


@register
def the_hatch_is_meant(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.MOLECULE_DEV_OPEN and not hatch_is_open():
        return [
            Error(
                "MOLECULE_DEV_OPEN=1 needs MOLECULE_ENV=development and no ADMIN_TOKEN, "
                "MOLECULE_ORG_ID or CP_UPSTREAM_URL.",
                hint="Unset MOLECULE_DEV_OPEN, or run `make up-open`, which sets all of them.",
                id="access.E003",
            )
        ]
    if settings.MOLECULE_DEV_OPEN:
        return [
            Warning(
                "The development hatch is open: this machine and its network need no credential.",
                hint="Never expose this port; `make up` starts closed.",
                id="access.W002",
            )
        ]
    if not settings.ADMIN_TOKEN:
        return [
            Warning(
                "ADMIN_TOKEN is not set: admin routes are closed to everybody.",
                hint="Set ADMIN_TOKEN to a random secret of at least 32 characters.",
                id="access.W003",
            )
        ]
    return []


@register
def anonymous_canvas_is_local(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.WS_ANONYMOUS_CANVAS and (is_production() or settings.MOLECULE_ORG_ID):
        return [
            Error(
                "WS_ANONYMOUS_CANVAS=1 is refused in production and for a tenant.",
                hint="Unset WS_ANONYMOUS_CANVAS; give the canvas a credential.",
                id="access.E004",
            )
        ]
    return []
