"""Session cookies, confirmed by the control plane that set them. Source: docs/reference/access.md, Sessions.

Verdicts are kept for seconds, under a hash: the cookie itself is stored nowhere. A control plane that cannot
be asked proves nothing, so that is 503 and the next request asks again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import structlog
from django.conf import settings

from config.errors import BadRequest, Unavailable
from config.http import from_json
from config.locks import outside_transaction

log = structlog.get_logger(__name__)

TIMEOUT_S = 3.0
MAX_ANSWER_BYTES = 64 * 1024
MEMBER_S, STRANGER_S = 30.0, 5.0
MAX_VERDICTS = 10_000
AGENT = "molecule-tenant-platform/session-verifier"


@dataclass(frozen=True)
class Session:
    """A confirmed member; `digest` stands for the cookie wherever the session needs a name."""

    user_id: str
    digest: str


@dataclass(frozen=True)
class _Verdict:
    user_id: str | None  # None: no member
    until: float


def is_configured() -> bool:
    return bool(settings.CP_UPSTREAM_URL and settings.MOLECULE_ORG_SLUG)


def confirmed(cookie: str | None) -> Session | None:
    """The member behind a `Cookie` header, None for nobody. Raises Unavailable when that cannot be told."""
    if not cookie or not is_configured():
        return None
    slug = settings.MOLECULE_ORG_SLUG
    digest = hashlib.sha256(f"{slug}\0{cookie}".encode()).hexdigest()
    verdict = _known(digest) or _fresh(digest, slug, cookie)
    return Session(verdict.user_id, digest) if verdict.user_id else None


def _fresh(digest: str, slug: str, cookie: str) -> _Verdict:
    """A page loads with many requests at once: one of them asks, the others take its verdict,
    or its failure.
    """
    began = time.monotonic()
    with _alone(digest) as turn:
        known = _known(digest)
        if known is not None:
            return known
        if turn.failed_at > began:
            raise _unavailable("asked a moment ago")
        try:
            user_id = _ask(slug, cookie)
        except Unavailable:
            turn.failed_at = time.monotonic()
            raise
        verdict = _Verdict(user_id, time.monotonic() + (MEMBER_S if user_id else STRANGER_S))
        _keep(digest, verdict)
        return verdict


def _ask(slug: str, cookie: str) -> str | None:
    """The member's user id, None when the control plane says no. Raises Unavailable."""
    outside_transaction()
    deadline = time.monotonic() + TIMEOUT_S
    headers = {b"Cookie": cookie.encode(), b"User-Agent": AGENT.encode()}
    url = f"{settings.CP_UPSTREAM_URL}/cp/auth/tenant-member"
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
            client.stream("GET", url, params={"slug": slug}, headers=headers) as answer,
        ):
            if answer.status_code >= 500:
                raise _unavailable(f"status {answer.status_code}")
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    return None
                if time.monotonic() > deadline:
                    raise _unavailable("answers too slowly")
    except httpx.HTTPError as error:
        raise _unavailable(type(error).__name__) from None
    return _member(body) if answer.status_code == 200 else None


def _member(body: bytes) -> str | None:
    try:
        given = from_json(body)
    except BadRequest:
        return None
    if not isinstance(given, dict) or given.get("member") is not True:
        return None
    user_id = given.get("user_id")
    return user_id if isinstance(user_id, str) and user_id else None


def _unavailable(cause: str) -> Unavailable:
    log.warning("session.unconfirmed", cause=cause)
    text = "session verification unavailable — retry shortly"
    return Unavailable(text, code="session_verifier_unavailable")


# --- Verdicts of this process
# ---------------------------------------------------------------------------------------------------


def _known(digest: str) -> _Verdict | None:
    verdict = _verdicts.get(digest)
    return verdict if verdict is not None and verdict.until > time.monotonic() else None


def _keep(digest: str, verdict: _Verdict) -> None:
    with _lock:
        _verdicts[digest] = verdict
        _verdicts.move_to_end(digest)
        while len(_verdicts) > MAX_VERDICTS:
            _verdicts.popitem(last=False)


@dataclass(eq=False)
class _Turn:
    """Whose turn it is to ask about one cookie, and how many want it."""

    lock: threading.Lock
    wanted: int = 0
    failed_at: float = 0.0


@contextmanager
def _alone(digest: str) -> Iterator[_Turn]:
    """Of the requests with one cookie only one passes at a time; other cookies do not wait."""
    with _lock:
        turn = _turns.setdefault(digest, _Turn(threading.Lock()))
        turn.wanted += 1
    try:
        with turn.lock:
            yield turn
    finally:
        with _lock:
            turn.wanted -= 1
            if not turn.wanted:
                _turns.pop(digest, None)


def forget_everything() -> None:
    """Tests begin without verdicts."""
    with _lock:
        _verdicts.clear()


_verdicts: OrderedDict[str, _Verdict] = OrderedDict()
_turns: dict[str, _Turn] = {}
_lock = threading.Lock()
