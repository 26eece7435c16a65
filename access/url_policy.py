"""Which addresses the server may call when somebody else names them: the one SSRF policy.

Asked when a URL is stored and again when it is dialled. Source: docs/reference/access.md, URL policy.
"""

from __future__ import annotations

import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from urllib.parse import urlsplit

from config.errors import BadRequest
from config.locks import outside_transaction
from config.posture import is_development

RESOLVE_TIMEOUT_S = 3.0
_resolver = ThreadPoolExecutor(max_workers=32, thread_name_prefix="resolve")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ALWAYS_BLOCKED: dict[str, tuple[str, ...]] = {
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "unspecified or multicast": ("0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8"),
    "reserved": (
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::/32",
        "100.64.0.0/10",
        "240.0.0.0/4",
        "fc00::/8",
    ),
    "instance metadata": ("fd00:ec2::/32", "fd20:ce::254/128"),
}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")


class Unresolvable(BadRequest):
    """The name has no address now; later it may."""


def check_url(url: str, *, is_saas: bool) -> None:
    """Judge a url that is to be stored. Raises BadRequest with a text that never contains the address.

    `localhost` by name is accepted for local development outside SaaS; the dial checks again.
    """
    if _host(url) != "localhost" or is_saas:
        vetted_address(url, is_saas=is_saas)


def check_literal(url: str, *, is_saas: bool) -> None:
    """The same without asking anybody where a name leads. Raises BadRequest."""
    literal = _literal(_host(url))
    if literal is not None and (label := blocked(literal, is_saas=is_saas)):
        raise BadRequest(f"url targets a blocked address: {label}")


def vetted_address(url: str, *, is_saas: bool) -> Address:
    """The address to connect to for `url`: the caller dials it, never the name again. Raises BadRequest."""
    host = _host(url)
    check_literal(url, is_saas=is_saas)
    if (literal := _literal(host)) is not None:
        return literal
    found = _addresses(host)
    for address in found:
        if label := blocked(address, is_saas=is_saas):
            raise BadRequest(f'hostname "{host}" resolves to forbidden address: {label}')
    return found[0]


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_whole = bool(host) and parts.username is None and parts.password is None and parts.port != 0
    except ValueError:  # an open bracket, a port that is none
        raise BadRequest("url targets a blocked address: malformed") from None
    if parts.scheme not in {"http", "https"}:
        raise BadRequest(f'url scheme must be http or https, got "{parts.scheme}"')
    if not is_whole:
        raise BadRequest("url targets a blocked address: malformed")
    return host


def blocked(address: Address, *, is_saas: bool) -> str | None:
    """Why `address` must not be called, or None."""
    address = unwrapped(address)
    for label, networks in _ALWAYS_BLOCKED.items():
        if _within(address, networks):
            return label
    if _within(address, _LOOPBACK):
        return None if is_development() else "loopback"
    if _within(address, _PRIVATE):
        return None if is_saas or is_development() else "private"
    return None


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped, 6to4, Teredo or NAT64 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(address.packed[-4:])
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        return inner or address
    return address


def _within(address: Address, networks: tuple[str, ...]) -> bool:
    return any(address in ipaddress.ip_network(network) for network in networks)


def _addresses(host: str) -> list[Address]:
    outside_transaction()
    lookup = _resolver.submit(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    try:
        found = lookup.result(timeout=RESOLVE_TIMEOUT_S)
    except (OSError, UnicodeError, FutureTimeout):
        lookup.cancel()  # one that still waits for a thread must not take it from others
        raise Unresolvable(f'hostname "{host}" cannot be resolved (DNS error)') from None
    return [ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found]
