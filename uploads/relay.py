"""Calls into an agent whose bodies pass through in pieces, either way: nothing is kept, nothing re-encoded.

An address is judged when it is dialled, and that very address is dialled: a name that means another one by
then reaches nobody. No redirect is followed, with the agent's secret in hand. Source:
docs/reference/uploads.md, Forwarding.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
import structlog

from access.url_policy import Address, Unresolvable, vetted_address
from config.errors import BadGateway, BadRequest
from config.locks import outside_transaction
from uploads.delivery import Target
from workspaces.defaults import is_saas
from workspaces.services import credential_on_its_way, known_inbound_secret

log = structlog.get_logger(__name__)

CONNECT_S = 5.0
SILENCE_S = 120.0  # without a byte either way
OVERALL_S = 1200.0
CONNECTIONS = 100
IDLE_S = 2.0  # agents close idle connections, and a body cannot be sent a second time
_TIMEOUTS = {"connect": CONNECT_S, "read": SILENCE_S, "write": SILENCE_S, "pool": CONNECT_S}
_UNREACHABLE = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


class _Refused(Exception):
    """The policy for others' urls does not admit the address."""


class VettedNetwork(httpcore.SyncBackend):
    """Dials what the policy for others' urls admits, and nothing else."""

    def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        address = _vetted(f"http://[{host}]" if ":" in host else f"http://{host}")
        return super().connect_tcp(str(address), port, *args, **kwargs)


def _vetted(url: str) -> Address:
    """Raises _Refused, Unresolvable."""
    try:
        return vetted_address(url, is_saas=is_saas())
    except Unresolvable:
        raise
    except BadRequest as refusal:
        raise _Refused(refusal.text) from None


def _pool(network: httpcore.NetworkBackend) -> httpcore.ConnectionPool:
    return httpcore.ConnectionPool(
        max_connections=CONNECTIONS, keepalive_expiry=IDLE_S, network_backend=network
    )


_to_others = _pool(VettedNetwork())
_to_own = _pool(httpcore.SyncBackend())  # addresses that the server wrote itself


@dataclass
class Answered:
    """An agent's answer; its body is read once, or given up by closing the iterator."""

    status: int
    content_type: str
    length: int | None
    _response: httpcore.Response
    _deadline: float

    def chunks(self) -> Generator[bytes]:
        """The body. An agent that breaks off then is only logged: its status has left already."""
        try:
            for chunk in self._response.iter_stream():
                yield chunk
                if time.monotonic() > self._deadline:
                    raise httpcore.ReadTimeout("the answer takes too long")
        except _UNREACHABLE as error:
            log.warning("chat_file.forward_failed", op="answer", error=type(error).__name__)
            raise ConnectionError("the agent broke off its answer") from None
        finally:
            self._response.close()

    def beginning(self, limit: int) -> bytes:
        """At most `limit` bytes of the body; the rest is not asked for."""
        body = b""
        pieces = self.chunks()
        while len(body) < limit and (piece := next(pieces, b"")):
            body += piece
        pieces.close()
        return body[:limit]


def call(
    target: Target,
    method: str,
    path: str,
    *,
    op: str,
    headers: Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (),
    credential: str | None = None,
    silence_s: float = SILENCE_S,
) -> Answered:
    """The agent's answer to `method` of `<url><path>`, its body still to come. It is told the secret that it
    shares with the server, or `credential`.

    Raises BadRequest for an address that the policy refuses, BadGateway for an agent that cannot be reached
    or would send us elsewhere, Unavailable while it does not know its secret, and whatever `body` raises.
    """
    outside_transaction()
    began = time.monotonic()
    about = {"workspace_id": str(target.workspace_id), "op": op}
    try:
        if not target.is_own_url:
            _vetted(target.url)  # before the secret is fetched
        secret = credential or known_inbound_secret(target.workspace_id)
        headers = [("Authorization", f"Bearer {secret}"), *headers]
        response = _sent(target, method, path, headers, _until(body, began + OVERALL_S), silence_s)
    except _Refused as refusal:
        log.warning("chat_file.forward_failed", **about, error=str(refusal))
        raise BadRequest("workspace URL not allowed") from None
    except (Unresolvable, *_UNREACHABLE) as error:
        log.warning("chat_file.forward_failed", **about, error=type(error).__name__)
        raise BadGateway("workspace unreachable") from None
    spent_ms = int((time.monotonic() - began) * 1000)
    log.info("chat_file.forward", **about, status=response.status, duration_ms=spent_ms)
    if response.status == 401:  # passed on, it would read as if the user's own login had ended
        response.close()
        raise credential_on_its_way("the agent did not accept the server's credential")
    if not 200 <= response.status < 300 and response.status < 400:
        response.close()
        raise BadGateway("workspace agent answered with a redirect")
    found = {name.lower(): value for name, value in response.headers}
    return Answered(
        response.status,
        found.get(b"content-type", b"application/octet-stream").decode("latin-1"),
        int(found[b"content-length"]) if found.get(b"content-length", b"").isdigit() else None,
        response,
        began + OVERALL_S,
    )


def _sent(
    target: Target,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]],
    body: Iterator[bytes],
    silence_s: float,
) -> httpcore.Response:
    given = [("Host", urlsplit(target.url).netloc), *headers]
    request = httpcore.Request(
        method,
        target.url.rstrip("/") + path,
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
        content=body,
        extensions={"timeout": {**_TIMEOUTS, "read": silence_s}},
    )
    pool = _to_own if target.is_own_url else _to_others
    return pool.handle_request(request)


def _until(body: Iterable[bytes], deadline: float) -> Iterator[bytes]:
    for chunk in body:
        if time.monotonic() > deadline:
            raise httpcore.WriteTimeout("the upload takes too long")
        yield chunk
