"""One request to a chat provider. Its address is judged when it is dialled, and that very address is dialled.

Urls hold credentials: no url, header or text of an exception is logged or answered.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from access.url_policy import vetted_address
from config.errors import BadGateway, BadRequest, DomainError
from config.http import from_json, to_json
from config.locks import outside_transaction
from workspaces.defaults import is_saas

log = structlog.get_logger(__name__)

CALL_S = 10.0  # from the first packet to the last byte
CONNECT_S = 5.0
ANSWER_BYTES = 1024 * 1024
_tls = ssl.create_default_context()  # costly to make, safe to share


class NotTaken(BadGateway):
    """The provider does not have the message; `is_certain` is False when it may have it all the same."""

    def __init__(self, text: str, *, is_certain: bool = True) -> None:
        super().__init__(text)
        self.is_certain = is_certain


@dataclass(frozen=True)
class Answer:
    """`body` is the parsed JSON, None for anything else."""

    status: int
    body: Any

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.body if isinstance(self.body, dict) else {}

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def call(
    provider: str,
    method: str,
    url: str,
    *,
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    until: float | None = None,
) -> Answer:
    """The provider's answer, whatever it says. `until`: no later than this time of `time.monotonic()`.

    Raises NotTaken: refused by the address policy, not reached, or broken off.
    """
    outside_transaction()
    ends = min(time.monotonic() + CALL_S, until or float("inf"))
    if ends <= time.monotonic():
        raise NotTaken(f"no time left to reach {provider}")
    parts = urlsplit(url)
    try:
        address = vetted_address(url, is_saas=is_saas())
        extensions = {"sni_hostname": parts.hostname} if parts.scheme == "https" else {}
        target = httpx.URL(url).copy_with(host=str(address))
    except BadRequest as refusal:
        log.warning("channel.address_refused", provider=provider, host=parts.hostname, reason=refusal.text)
        raise NotTaken(f"{provider} cannot be reached: its address is not allowed or not known") from None
    except (httpx.InvalidURL, ValueError):
        raise NotTaken(f"{provider} cannot be reached: its url is none") from None
    given = {"Host": parts.netloc, **({"Content-Type": "application/json"} if json is not None else {})}
    content = to_json(json) if json is not None else None
    try:
        with httpx.Client(
            timeout=_left(ends), verify=_tls, trust_env=False, follow_redirects=False
        ) as client:
            request = client.build_request(
                method, target, content=content, headers={**given, **(headers or {})}, extensions=extensions
            )
            answer = client.send(request, stream=True)
            try:
                return Answer(answer.status_code, _parsed(_body(answer, ends)))
            finally:
                answer.close()
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        is_certain = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol)
        log.warning("channel.not_reached", provider=provider, host=parts.hostname, error=type(error).__name__)
        raise NotTaken(f"{provider} did not answer", is_certain=is_certain) from None


def _left(ends: float) -> httpx.Timeout:
    seconds = max(0.1, ends - time.monotonic())
    return httpx.Timeout(seconds, connect=min(CONNECT_S, seconds))


def _body(answer: httpx.Response, ends: float) -> bytes:
    body = bytearray()
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > ANSWER_BYTES:
            raise httpx.ReadError("too large")
        if time.monotonic() > ends:
            raise httpx.ReadTimeout("too slow")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    try:
        return from_json(body)
    except DomainError:
        return None
