"""Who is at the other end of the connection: the address rate limits and the development hatch judge by."""

from __future__ import annotations

import ipaddress

from django.conf import settings
from django.http import HttpRequest
from django.utils.deprecation import MiddlewareMixin

UNKNOWN = "0.0.0.0"
# Listed, since `is_private` of the standard library also covers documentation and reserved ranges.
_LOCAL = tuple(
    ipaddress.ip_network(one)
    for one in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def client_address(peer: str | None, forwarded_for: str | None) -> str:
    """The TCP peer, or, behind trusted proxies, the first address from the right of X-Forwarded-For that is
    not one.

    Without `TRUSTED_PROXIES` the header is ignored: anyone can write one.
    """
    address = (peer or "").strip() or UNKNOWN
    hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
    while hops and is_trusted_proxy(address):
        address = hops.pop()
    return address if _parsed(address) else UNKNOWN


def is_local(address: str) -> bool:
    """Loopback or private: the machine itself or its own network."""
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in _LOCAL)


def is_trusted_proxy(address: str) -> bool:
    """Whether what this peer says about the request in front of it is believed."""
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in settings.TRUSTED_PROXIES)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.removeprefix("[").split("]")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped or parsed


class ClientAddress(MiddlewareMixin):
    """Sets `request.client_address`."""

    def process_request(self, request: HttpRequest) -> None:
        request.client_address = client_address(  # type: ignore[attr-defined]
            request.META.get("REMOTE_ADDR"), request.META.get("HTTP_X_FORWARDED_FOR")
        )
