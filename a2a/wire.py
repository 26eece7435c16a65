"""One exchange with an agent over HTTP: no database, no rules, only what happened on the wire.

Source: docs/reference/a2a.md, The call.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

import httpx

CONNECT_S = 10.0
NAME_TRIES, NAME_PAUSE_S = 5, 0.3  # a container that restarts has no name for a moment
WRITE_S = 60.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_tls = ssl.create_default_context()  # costly to make, safe to share


class Trouble(StrEnum):
    UNSENDABLE = "unsendable"  # no request could be made of it
    UNREACHED = "unreached"  # no connection: refused, timed out, unknown name, TLS
    SILENT = "silent"  # connected, and no answer in time
    BROKEN = "broken"  # connected, and cut off before an answer
    TORN = "torn"  # the answer began, and broke off
    TOO_LARGE = "too_large"


@dataclass(frozen=True)
class Failed:
    """`status` is the agent's, when it had begun to answer; `name_unknown`: its name did not resolve."""

    trouble: Trouble
    reason: str
    status: int = 0
    name_unknown: bool = False
    is_ceiling: bool = False  # the whole time given was used up


class Stream:
    """Where the chunks of an event stream go while they come; `begun` is set with the first."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.status = 0
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()

    def begin(self, status: int) -> None:
        self.status = status
        self.begun.set()

    def put(self, chunk: bytes) -> None:
        self._chunks.put_nowait(chunk)

    def end(self) -> None:
        self._chunks.put_nowait(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Call:
    """Where a message goes: the stored url, the vetted address to dial (None: our own url), the secret."""

    url: str
    address: str | None = None
    secret: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """Seconds: until the response begins, without any sign of life, and in all (None: no ceiling).

    `last_sign` tells when somebody last heard of the agent, as a time of `time.time()`; None: never.
    """

    headers_s: float = 1800.0
    idle_s: float = 1800.0
    total_s: float | None = 1800.0
    last_sign: Callable[[], Awaitable[float | None]] | None = None


async def exchange(
    call: Call, body: bytes, patience: Patience, stream: Stream | None = None
) -> Reply | Failed:
    """Post the message and take the answer, whatever it is. Raises nothing but cancellation.

    An event stream is also passed to `stream`, chunk by chunk.
    """
    clock = _Clock()
    turn = asyncio.create_task(_named_turn(call, body, clock, stream))
    try:
        is_ceiling = await _wait(turn, patience, clock)
        if turn.done():
            return turn.result()
        turn.cancel()
        await asyncio.wait({turn})
        return clock.given_up(is_ceiling)
    finally:
        turn.cancel()
        if stream is not None:
            stream.end()


class _Clock:
    """When the exchange began, and when the agent was last heard of on this very connection."""

    def __init__(self) -> None:
        self.began = time.time()
        self.heard = self.began
        self.status = 0
        self.is_connected = False

    def hears(self) -> None:
        self.heard = time.time()

    def given_up(self, is_ceiling: bool) -> Failed:
        if self.status:
            return Failed(Trouble.TORN, "the agent's answer did not end in time", self.status)
        if not self.is_connected:
            return Failed(Trouble.UNREACHED, "no connection in time")
        return Failed(Trouble.SILENT, "the agent did not answer in time", is_ceiling=is_ceiling)


async def _wait(turn: asyncio.Task[Reply | Failed], patience: Patience, clock: _Clock) -> bool:
    """Until the turn is over, or one of the limits is reached; whether that was the ceiling."""
    while not turn.done():
        now = time.time()
        left = [clock.heard + patience.idle_s - now]
        if patience.total_s is not None:
            left.append(clock.began + patience.total_s - now)
        if not clock.status:
            left.append(clock.began + patience.headers_s - now)
        if min(left) > 0:
            await asyncio.wait({turn}, timeout=min(left))
        elif left[0] > min(left) or not await _heard_elsewhere(patience, clock):
            return patience.total_s is not None and clock.began + patience.total_s <= now
    return False


async def _heard_elsewhere(patience: Patience, clock: _Clock) -> bool:
    """Whether the agent gave a sign of life by another way within the idle time."""
    sign = await patience.last_sign() if patience.last_sign is not None else None
    if sign is None or sign <= clock.heard:
        return False
    clock.heard = sign
    return sign + patience.idle_s > time.time()


async def _named_turn(call: Call, body: bytes, clock: _Clock, stream: Stream | None) -> Reply | Failed:
    """A name that is not known was not sent to; only our own compute's names come back in a moment."""
    for _ in range(NAME_TRIES):
        outcome = await _turn(call, body, clock, stream)
        if call.address is not None or not isinstance(outcome, Failed) or not outcome.name_unknown:
            return outcome
        await asyncio.sleep(NAME_PAUSE_S)
    return await _turn(call, body, clock, stream)


async def _turn(call: Call, body: bytes, clock: _Clock, stream: Stream | None) -> Reply | Failed:
    parts = urlsplit(call.url)
    limits = httpx.Timeout(connect=CONNECT_S, read=None, write=WRITE_S, pool=CONNECT_S)

    async def trace(name: str, info: object) -> None:
        if name in {"connection.connect_tcp.complete", "http11.send_request_headers.started"}:
            clock.is_connected = True

    try:
        url = httpx.URL(call.url)
        if call.address is not None:  # dial what was vetted: a second look-up could give another address
            url = url.copy_with(host=call.address)
        extensions = {"trace": trace}
        if parts.scheme == "https":
            extensions["sni_hostname"] = parts.hostname  # type: ignore[assignment]
        headers = {"Host": parts.netloc, "Content-Type": "application/json", **call.headers}
        if call.secret:
            headers["Authorization"] = f"Bearer {call.secret}"
        # No connection is kept: one that the agent closed meanwhile would look like a lost message.
        async with httpx.AsyncClient(
            timeout=limits, verify=_tls, trust_env=False, follow_redirects=False
        ) as client:
            request = client.build_request("POST", url, content=body, headers=headers, extensions=extensions)
            response = await client.send(request, stream=True)
            try:
                clock.status = response.status_code
                clock.hears()
                return await _body(response, clock, stream)
            finally:
                await response.aclose()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError, ValueError):
        return Failed(Trouble.UNSENDABLE, "no request can be made of it")
    except httpx.HTTPError as error:
        return _failure(error, clock)


async def _body(response: httpx.Response, clock: _Clock, stream: Stream | None) -> Reply | Failed:
    body = bytearray()
    kind = response.headers.get("content-type", "")
    if stream is not None and response.status_code < 300 and kind.startswith("text/event-stream"):
        stream.begin(response.status_code)
    else:
        stream = None
    async for chunk in response.aiter_bytes():
        clock.hears()
        if stream is not None:
            stream.put(chunk)
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return Failed(Trouble.TOO_LARGE, "agent response is too large", response.status_code)
    return Reply(response.status_code, bytes(body), kind)


def _failure(error: httpx.HTTPError, clock: _Clock) -> Failed:
    name = type(error).__name__
    if clock.status:
        return Failed(Trouble.TORN, "the agent's answer broke off", clock.status)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return Failed(Trouble.UNREACHED, f"no connection ({name})", name_unknown=_is_unknown_name(error))
    return Failed(Trouble.BROKEN, f"the connection broke ({name})")


def _is_unknown_name(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
