"""Ports on this machine."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import psutil

LOWEST, HIGHEST = 20_000, 32_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True when a server could listen on `host`:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose(count: int, avoid: int = 0) -> list[int]:
    """`count` different free loopback ports.

    They lie below the range the kernel hands out for outgoing connections: a server that is restarted must
    find its port free, and not used by somebody's connection. Two stacks that start together hardly meet."""
    highest = HIGHEST
    if EPHEMERAL_RANGE.exists():
        lowest_ephemeral = int(EPHEMERAL_RANGE.read_text().split()[0])
        if lowest_ephemeral > LOWEST + 1_000:
            highest = min(HIGHEST, lowest_ephemeral)
    chosen: list[int] = []
    while len(chosen) < count:
        port = random.randrange(LOWEST, highest)  # noqa: S311  (no secret)
        if port != avoid and port not in chosen and is_free(port):
            chosen.append(port)
    return chosen


def owner(port: int) -> str | None:
    """Who listens on `port`, as far as we may see; None when nobody does."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                return "another process"
    return None
