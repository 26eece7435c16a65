"""How to tell that a server answers. Every probe gives up after PROBE_TIMEOUT_S and says no."""

from __future__ import annotations

import asyncio

from stack.supervisor import Probe

PROBE_TIMEOUT_S = 2.0


def http(port: int, path: str = "/health", *, host: str = "127.0.0.1", any_status: bool = False) -> Probe:
    """GET `path`, on loopback unless another `host` is named, answers 200, or with any status at all."""

    async def probe() -> bool:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
        words = (await _ask(port, request.encode(), host)).split()
        return len(words) > 1 and words[0].startswith(b"HTTP/1.") and (any_status or words[1] == b"200")

    return probe


def valkey(port: int, password: str) -> Probe:
    """PING answers PONG."""

    async def probe() -> bool:
        return b"+PONG" in await _ask(port, f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())

    return probe


async def _ask(port: int, question: bytes, host: str = "127.0.0.1") -> bytes:
    """The beginning of the answer; empty when there is none."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(question)
                answer = b""
                while len(answer) < 4_096 and (chunk := await reader.read(4_096)):
                    answer += chunk
                return answer
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
