"""Work handed to other workspaces, and work that others handed over: the routes of the ledger as an agent
uses them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from agent.client import Answer, Backoff, Platform, Unreachable

log = logging.getLogger("agent")

BEAT_S = 30.0  # while a delegated task is worked on
POLL_S = 3.0
TRIES_LIMIT = 6
ENDS = ("completed", "failed")


class Refused(Exception):
    """The control plane does not take it; repeating cannot help."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a delegation of ours ended: the answer, or the reason."""

    delegation_id: str
    target_id: str
    is_completed: bool
    text: str


class Delegations:
    """`platform` is the control plane as this workspace sees it."""

    def __init__(self, platform: Platform, poll_s: float = POLL_S) -> None:
        self._platform = platform
        self._poll_s = poll_s
        self._told: set[str] = set()

    def delegate(self, target_id: str, task: str, key: str = "") -> str:
        """Hand `task` to the target; return the delegation's id. Safe to repeat: the same target, task and
        `key` are the same delegation. Raises Refused, Unreachable.
        """
        body = {"target_id": target_id, "task": task, "idempotency_key": _key(target_id, task, key)}
        backoff = Backoff()
        for attempt in range(1, TRIES_LIMIT + 1):
            try:
                answer = self._platform.post(self._platform.own("delegate"), body)
            except Unreachable:
                if attempt == TRIES_LIMIT:
                    raise
                time.sleep(backoff.next())
                continue
            if answer.status == 202:
                return str(answer.body["delegation_id"])
            if answer.status < 500 and answer.status != 429:
                raise Refused(answer.error)
            time.sleep(backoff.next(answer.retry_after_s))
        raise Refused("the control plane takes no delegations now")

    def wait(self, delegation_id: str, timeout_s: float) -> Ended | None:
        """How it ended, with the whole text; None when it has not within `timeout_s`. Raises Refused."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self._read(delegation_id)
            if ended is not None or time.monotonic() >= deadline:
                return ended
            time.sleep(min(self._poll_s, max(deadline - time.monotonic(), 0)))

    def ended(self) -> list[Ended]:
        """Delegations of ours that ended since this was last asked, oldest first: each is told once."""
        answer = self._get("delegations")
        if answer is None or not answer.ok or not isinstance(answer.body, list):
            return []
        fresh = [
            entry
            for entry in answer.body
            if isinstance(entry, dict)
            and entry.get("status") in ENDS
            and entry.get("source_id") == self._platform.workspace_id  # anything else is not ours to act on
            and entry.get("delegation_id") not in self._told
        ]
        self._told.update(str(entry["delegation_id"]) for entry in fresh)
        return [_ended(entry) for entry in reversed(fresh)]

    def report(self, delegation_id: str, *, result: str | None = None, error: str | None = None) -> bool:
        """Tell how a task that was handed to us ended; whether the control plane took it."""
        if error is None:
            body = {"status": "completed", "response_preview": result or ""}
        else:
            body = {"status": "failed", "error": error}
        try:
            return self._platform.post(self._path(delegation_id, "/update"), body).ok
        except Unreachable as failure:
            log.warning("delegation %s: the report did not get through: %s", delegation_id, failure)
            return False

    def beat(self, delegation_id: str) -> None:
        """Somebody works on it. A lost beat is made up for by the next."""
        try:
            self._platform.post(self._path(delegation_id, "/heartbeat"), {})
        except Unreachable as failure:
            log.warning("delegation %s: a beat did not get through: %s", delegation_id, failure)

    @contextmanager
    def beating(self, delegation_id: str | None) -> Iterator[None]:
        """Beat every half minute while the block works on a delegated task."""
        if not delegation_id:
            yield
            return
        over = threading.Event()

        def run() -> None:
            while not over.wait(BEAT_S):
                self.beat(delegation_id)

        thread = threading.Thread(target=run, name="beats", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _read(self, delegation_id: str) -> Ended | None:
        answer = self._get(f"delegations/{quote(delegation_id, safe='')}")
        if answer is None or answer.status >= 500 or answer.status == 429:
            return None
        if not answer.ok or not isinstance(answer.body, dict):
            raise Refused(answer.error)
        return _ended(answer.body) if answer.body.get("status") in ENDS else None

    def _get(self, path: str) -> Answer | None:
        try:
            return self._platform.get(self._platform.own(path))
        except Unreachable as failure:
            log.warning("delegations: %s", failure)
            return None

    def _path(self, delegation_id: str, suffix: str) -> str:
        return self._platform.own(f"delegations/{quote(delegation_id, safe='')}{suffix}")


def _key(target_id: str, task: str, key: str) -> str:
    return sha256("\x00".join([target_id, task, key]).encode(errors="replace")).hexdigest()[:32]


def _ended(entry: dict[str, Any]) -> Ended:
    is_completed = entry.get("status") == "completed"
    short = entry.get("response_preview") if is_completed else entry.get("error")
    return Ended(
        delegation_id=str(entry.get("delegation_id")),
        target_id=str(entry.get("target_id")),
        is_completed=is_completed,
        text=str(entry.get("result") or short or ""),
    )
