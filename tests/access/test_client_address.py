from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from access.client_address import UNKNOWN, client_address, is_local

PROXIES = [ip_network("10.0.0.0/8"), ip_network("::1/128")]


def test_without_trusted_proxies_the_header_is_ignored(settings: Any) -> None:
    settings.TRUSTED_PROXIES = []
    assert client_address("198.51.100.4", "127.0.0.1") == "198.51.100.4"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.4", "198.51.100.4"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.4", "198.51.100.4"),
        ("10.0.0.1", "198.51.100.4, 10.0.0.9", "198.51.100.4"),
        ("10.0.0.1", "10.0.0.7, 10.0.0.9", "10.0.0.7"),
        ("198.51.100.4", "10.0.0.7", "198.51.100.4"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "198.51.100.4", "198.51.100.4"),
        ("10.0.0.1", "unknown", UNKNOWN),
        ("10.0.0.1", "127.0.0.1, unknown", UNKNOWN),
        ("", None, UNKNOWN),
        (None, "127.0.0.1", UNKNOWN),
    ],
)
def test_behind_trusted_proxies_the_first_untrusted_hop_from_the_right_counts(
    settings: Any, peer: str | None, forwarded: str | None, expected: str
) -> None:
    settings.TRUSTED_PROXIES = PROXIES
    assert client_address(peer, forwarded) == expected


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.9.8.7", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.168.0.1", True),
        ("fd12::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("169.254.169.254", False),
        ("203.0.113.1", False),
        ("240.0.0.1", False),
        ("8.8.8.8", False),
        ("not an address", False),
    ],
)
def test_what_counts_as_the_machine_and_its_own_network(address: str, local: bool) -> None:
    assert is_local(address) is local
