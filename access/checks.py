"""System checks of who may come in: an unsafe or contradictory setting is refused before anything serves."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from access.ciphers import PLAIN, newest_version
from access.credentials import hatch_is_open
from config.posture import is_production


@register
def secrets_can_be_sealed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    hint = "Set it to the base64 of 32 random bytes (`openssl rand -base64 32`)."
    try:
        version = newest_version()
    except ValueError as error:
        return [Error(f"{error}.", hint=hint, id="access.E001")]
    if version == PLAIN and is_production():
        return [Error("SECRETS_ENCRYPTION_KEY is not set in production.", hint=hint, id="access.E002")]
    if version == PLAIN:
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


@register
def upstreams_are_addresses(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{name} is no http or https address with a host.",
            hint="Write it as https://host, without user, query or fragment, or unset it.",
            id=check_id,
        )
        for name, check_id in (("CP_UPSTREAM_URL", "access.E005"), ("CANVAS_PROXY_URL", "access.E006"))
        if getattr(settings, name) and not _is_upstream(getattr(settings, name))
    ]


def _is_upstream(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return False
    is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and has_port and is_plain


@register
def sessions_can_be_confirmed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.MOLECULE_ORG_SLUG and not settings.CP_UPSTREAM_URL:
        return [
            Warning(
                "MOLECULE_ORG_SLUG is set without CP_UPSTREAM_URL: no session is ever valid.",
                hint="Set CP_UPSTREAM_URL to the control plane that knows the slug, or unset the slug.",
                id="access.W004",
            )
        ]
    return []


@register
def minting_over_http_is_meant(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.MOLECULE_ENABLE_TEST_TOKENS and is_production():
        return [
            Warning(
                "MOLECULE_ENABLE_TEST_TOKENS=1 in production: ADMIN_TOKEN mints workspace tokens over HTTP.",
                hint="Unset MOLECULE_ENABLE_TEST_TOKENS when the end-to-end scripts have run.",
                id="access.W005",
            )
        ]
    return []


@register
def origins_are_exact(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A wildcard, or a path, would never match and looks as if it did."""
    wrong = [one for one in settings.CORS_ORIGINS if not _is_origin(one)]
    if wrong:
        return [
            Error(
                f"CORS_ORIGINS names {wrong[0]!r}, which is no origin.",
                hint="List origins such as https://canvas.example, without wildcard, path or trailing slash.",
                id="access.E007",
            )
        ]
    return []


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_whole and "*" not in text and text == f"{parts.scheme}://{parts.netloc}"
