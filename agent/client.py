"""Calls to the control plane: JSON in, JSON out, one connection per call.

A fresh connection costs a fraction of a millisecond and an agent calls every few seconds; thousands of idle
ones would cost the server much more. Redirects are not followed and proxies of the environment not used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from agent import __version__

CALL_TIMEOUT_S = 15.0
RETRY_AFTER_LIMIT_S = 300.0


class Unreachable(Exception):
    """No answer. `sent`: the request had left, so the server may have acted on it; `timed_out`: it was
    still being waited for."""

    def __init__(self, message: str, *, sent: bool, timed_out: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any  # parsed JSON; None when there was none
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def error(self) -> str:
        """`<status> <the server's own words>`, short enough for one log line."""
        words = self.body.get("error") if isinstance(self.body, dict) else None
        return f"{self.status} {words[:200]!r}" if isinstance(words, str) else str(self.status)

    @property
    def code(self) -> str:
        code = self.body.get("code") if isinstance(self.body, dict) else None
        return code if isinstance(code, str) else ""


class Backoff:
    """Growing waits between tries, spread by ±25 % so that a thousand agents do not come back together."""

    def __init__(self, first_s: float = 0.5, limit_s: float = 10.0) -> None:
        self._next_s = first_s
        self._limit_s = limit_s

    def next(self, retry_after_s: float | None = None) -> float:
        """Seconds until the next try; a server that named its own wait is not asked earlier."""
        wait_s = spread(self._next_s)
        self._next_s = min(self._next_s * 2, self._limit_s)
        return max(wait_s, retry_after_s) if retry_after_s is not None else wait_s


def spread(seconds: float, share: float = 0.25) -> float:
    """`seconds`, moved at random by up to ± `share` of it."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311 (no secret)


def checked_base_url(url: str) -> str:
    """`url` without its trailing slash. Raises ValueError, without the url: it may hold a password."""
    try:
        parts = urlsplit(url.strip())
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        port_is_valid = False
    if not port_is_valid or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an http:// or https:// address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("user name and password do not belong into the address")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


class Platform:
    """The control plane as one workspace sees it."""

    def __init__(self, base_url: str, workspace_id: str, token: Callable[[], str]) -> None:
        parts = urlsplit(base_url)
        self.base_url = base_url
        self.workspace_id = workspace_id
        self._token = token
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path
        self._netloc = (parts.scheme, parts.hostname or "", parts.port)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """Raises Unreachable."""
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, None, {}, CALL_TIMEOUT_S)

    def post(
        self, path: str, body: Any, *, as_workspace: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> Answer:
        """`as_workspace` names this workspace as the caller (`X-Workspace-ID`). Raises Unreachable."""
        headers = {"X-Workspace-ID": self.workspace_id} if as_workspace else {}
        return self._call("POST", path, json.dumps(body, separators=(",", ":")).encode(), headers, timeout_s)

    def connection(self, timeout_s: float) -> HTTPConnection:
        """For a transfer that is no JSON call; not connected yet."""
        scheme, host, port = self._netloc
        return (HTTPSConnection if scheme == "https" else HTTPConnection)(host, port, timeout=timeout_s)

    def send(self, connection: HTTPConnection, method: str, path: str) -> HTTPResponse:
        """One request without a body; its answer, still to be read. Raises OSError, HTTPException."""
        connection.request(method, self._prefix + path, b"" if method == "POST" else None, self._headers())
        return connection.getresponse()

    def own(self, suffix: str) -> str:
        """A path below this workspace: `own("notify")` is `/workspaces/<id>/notify`."""
        return workspace_path(self.workspace_id, suffix)

    def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        sent = False
        connection = self.connection(timeout_s)
        try:
            connection.request(method, self._prefix + path, body, {**self._headers(), **headers})
            sent = True
            response = connection.getresponse()
            raw = response.read()
            return Answer(response.status, _parsed(raw), _seconds(response.getheader("Retry-After")))
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout_s:g} s", sent=sent, timed_out=True) from None
        except (OSError, HTTPException, UnicodeError) as error:  # the last: a host name beyond IDNA
            words = getattr(error, "strerror", None) or type(error).__name__
            raise Unreachable(str(words), sent=sent) from None
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Origin": self._origin,
            "User-Agent": f"workspace-agent/{__version__}",
        }
        token = self._token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers


def workspace_path(workspace_id: str, suffix: str) -> str:
    return f"/workspaces/{quote(workspace_id, safe='')}/{suffix}"


def workspace_is_deleted(platform: Platform) -> bool:
    """Ask the one route that still tells after deletion has revoked the token. Unreachable counts as no."""
    try:
        answer = platform.get(platform.own("state"))
    except Unreachable:
        return False
    return answer.status == 404 and isinstance(answer.body, dict) and answer.body.get("deleted") is True


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _seconds(header: str | None) -> float | None:
    """Seconds of a `Retry-After` header; None when absent or in its date form, which nobody here sends."""
    try:
        return min(max(float(int(header or "")), 0.0), RETRY_AFTER_LIMIT_S)
    except (ValueError, OverflowError):
        return None
