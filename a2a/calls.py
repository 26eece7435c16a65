"""One call of an agent: the envelope goes out, its answer or the reason for none comes back.

Source: docs/reference/a2a.md, Delivery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from config.errors import BadGateway, DomainError
from config.http import from_json

log = structlog.get_logger(__name__)

ANSWER_S = 1800.0  # how long an agent may think
CONNECT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_LIMITS = httpx.Timeout(connect=CONNECT_S, read=ANSWER_S, write=60.0, pool=CONNECT_S)


@dataclass(frozen=True)
class Call:
    """Where a push-mode message goes: the stored url, the vetted address to dial (None: our own url),
    the secret.
    """

    url: str
    address: str | None
    secret: str


async def ask(call: Call, envelope: dict[str, Any]) -> tuple[int, Any]:
    """The agent's answer. Raises BadGateway, or its own status with its error text."""
    try:
        status, body = await _post(call, envelope)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        log.warning("a2a.unreachable", error=type(error).__name__)
        raise BadGateway("failed to reach workspace agent") from None
    if status >= 300:
        raise _AgentError(status, body)
    if not body:
        raise BadGateway("agent returned empty response body")
    try:
        return status, from_json(body)
    except DomainError:
        raise BadGateway("failed to read agent response") from None


async def _post(call: Call, envelope: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body. Raises httpx errors, and BadGateway for an answer that is larger than we take."""
    parts = urlsplit(call.url)
    headers = {"Authorization": f"Bearer {call.secret}", "Host": parts.netloc}
    url = httpx.URL(call.url)
    if call.address is not None:  # dial what was vetted: a second look-up could give another address
        url = url.copy_with(host=call.address)
    extensions = {"sni_hostname": parts.hostname} if parts.scheme == "https" else {}
    async with httpx.AsyncClient(timeout=_LIMITS, trust_env=False, follow_redirects=False) as client:
        request = client.build_request("POST", url, json=envelope, headers=headers, extensions=extensions)
        response = await client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise BadGateway(
                        "agent response is too large",
                        delivery_confirmed=True,
                        truncated=True,
                        max_bytes=MAX_ANSWER_BYTES,
                    )
            return response.status_code, bytes(body)
        finally:
            await response.aclose()


class _AgentError(DomainError):
    """The agent's refusal under its own status."""

    def __init__(self, status: int, body: bytes) -> None:
        text = httpx.codes.get_reason_phrase(status) or "agent error"
        try:
            given = from_json(body)["error"]
            text = given if isinstance(given, str) else given["message"]
        except (DomainError, KeyError, TypeError):
            pass
        super().__init__(str(text)[:500])
        self.status = status  # type: ignore[misc]
