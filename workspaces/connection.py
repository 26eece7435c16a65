"""What the operator of an external agent needs to connect it: one builder for create, rotate and re-show.

The snippets are the files of `workspaces/snippets/`, one per key. Source: docs/reference/external-agents.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from django.conf import settings
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from access.client_address import is_trusted_proxy
from workspaces.defaults import is_saas
from workspaces.slugs import server_name

log = structlog.get_logger(__name__)

NO_TOKEN = "<ROTATE_TO_REVEAL_TOKEN>"  # stamped when the token is not known; snippets refuse to keep it
SNIPPETS = (
    "curl_register_template",
    "python_snippet",
    "claude_code_channel_snippet",
    "universal_mcp_snippet",
    "hermes_channel_snippet",
    "codex_snippet",
    "openclaw_snippet",
)
_FOLDER = Path(__file__).parent / "snippets"
_MARKER = re.compile(r"\{\{([A-Z_]+)\}\}")
_NOT_PUBLIC = frozenset({"localhost", "host.docker.internal"})


def connection_payload(
    *, platform_url: str, workspace_id: UUID, workspace_name: str, auth_token: str
) -> dict[str, str]:
    """The payload; `auth_token` is empty on a re-show, and then no snippet holds a usable credential."""
    url = platform_url.rstrip("/")
    register, heartbeat = f"{url}/registry/register", f"{url}/registry/heartbeat"
    values = {
        "PLATFORM_URL": url,
        "WORKSPACE_ID": str(workspace_id),
        "AUTH_TOKEN": auth_token or NO_TOKEN,
        "SERVER_NAME": server_name(workspace_name, workspace_id),
        "REGISTRY_ENDPOINT": register,
        "HEARTBEAT_ENDPOINT": heartbeat,
    }
    return {
        "workspace_id": str(workspace_id),
        "platform_url": url,
        "auth_token": auth_token,
        "registry_endpoint": register,
        "heartbeat_endpoint": heartbeat,
        **{name: _stamped(name, values) for name in SNIPPETS},
    }


def _stamped(name: str, values: dict[str, str]) -> str:
    """Raises KeyError for a marker nobody fills in."""
    return _MARKER.sub(lambda marker: values[marker[1]], _snippet(name))


@cache
def _snippet(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def platform_url(request: HttpRequest) -> str:
    """The address external agents reach this server at: configured, else the one this request was sent to.

    On SaaS it must be public https, since the token travels there; the deployment's own address is then
    asked before the request's.
    """
    asked = _asked_address(request)
    if not is_saas():
        return settings.EXTERNAL_PLATFORM_URL or asked or str(settings.PLATFORM_URL)
    for candidate in (settings.EXTERNAL_PLATFORM_URL, settings.PLATFORM_URL, asked):
        if candidate and _is_public(candidate):
            return str(candidate)
    log.error("platform_url.none_is_public", hint="set EXTERNAL_PLATFORM_URL to this server's https address")
    return settings.EXTERNAL_PLATFORM_URL or str(settings.PLATFORM_URL)


def _asked_address(request: HttpRequest) -> str:
    """Scheme and host the client used; what a proxy adds counts only from one that is trusted. '' when no
    host may be used: a forged one would be handed the operator's token.
    """
    meta = request.META
    is_proxied = is_trusted_proxy(meta.get("REMOTE_ADDR") or "")
    scheme = _first(meta.get("HTTP_X_FORWARDED_PROTO")).lower() if is_proxied else ""
    if scheme not in {"http", "https"}:
        scheme = "https" if meta.get("wsgi.url_scheme") == "https" else "http"
    forwarded = [_first(meta.get("HTTP_X_FORWARDED_HOST"))] if is_proxied else []
    return next((f"{scheme}://{host}" for host in _usable([*forwarded, meta.get("HTTP_HOST")])), "")


def _first(header: str | None) -> str:
    return (header or "").split(",")[0].strip()


def _usable(hosts: list[str | None]) -> Iterator[str]:
    for host in hosts:
        domain, _ = split_domain_port(host or "")
        if domain and validate_host(domain, settings.ALLOWED_HOSTS):
            yield str(host)


def _is_public(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, has_port = parts.hostname or "", parts.port is not None
    except ValueError:
        return False
    return parts.scheme == "https" and bool(host) and not has_port and not _names_this_machine(host)


def _names_this_machine(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in _NOT_PUBLIC
    return address.is_loopback or address.is_unspecified
