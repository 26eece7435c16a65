"""Heartbeats: one every interval, and a short "task push" whenever a task starts or ends."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from agent.client import Answer, Platform, Unreachable, spread, workspace_is_deleted
from agent.credentials import Credentials
from agent.exits import AgentExit, ExitCode
from agent.tasks import TaskBoard, TaskState

log = logging.getLogger("agent")

REFUSALS_LIMIT = 3  # 401 or 403 in a row before the agent gives up
RETRY_S = 5.0  # after a beat that did not arrive, unless the interval is shorter
PUSH_BURST = 8  # pushes sent at once; more than these wait and shrink to the latest
PUSHES_PER_S = 4.0  # sustained: well under the control plane's 600 calls a minute


class PushQueue:
    """Task states waiting to be reported. A busy agent drops the older ones: only the latest must arrive."""

    def __init__(self) -> None:
        self._states: deque[TaskState] = deque(maxlen=PUSH_BURST)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, state: TaskState) -> None:
        with self._changed:
            self._states.append(state)
            self._changed.notify()

    def take(self, timeout_s: float) -> TaskState | None:
        """The oldest waiting state; None after `timeout_s` or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._states or self._closed, timeout_s)
            return self._states.popleft() if self._states and not self._closed else None

    def keep_latest(self) -> None:
        with self._changed:
            while len(self._states) > 1:
                self._states.popleft()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Heartbeat:
    """The loop that keeps a workspace online. One thread runs it; others only put into `pushes`."""

    def __init__(
        self,
        platform: Platform,
        credentials: Credentials,
        board: TaskBoard,
        pushes: PushQueue,
        interval_s: float,
    ) -> None:
        self._platform = platform
        self._credentials = credentials
        self._board = board
        self._pushes = pushes
        self._interval_s = interval_s
        self._started = time.monotonic()
        self._refusals = 0
        self._credit = float(PUSH_BURST)
        self._credit_at = self._started

    def run(self, stopping: threading.Event) -> None:
        """Beat until `stopping`. Raises AgentExit when the control plane says that there is no point."""
        due = time.monotonic() + spread(self._interval_s * 0.55, 0.8)  # agents start together, by the dozen
        while not stopping.is_set():
            wait_s = due - time.monotonic()
            pause_s = self._pause_before_push()
            if wait_s <= 0:
                due = time.monotonic() + self._send(self._report())
            elif pause_s > 0:
                self._pushes.keep_latest()
                stopping.wait(min(wait_s, pause_s))
            elif (state := self._pushes.take(wait_s)) is not None:
                self._credit -= 1
                self._send(self._body(state, 0, "", 0))

    def _pause_before_push(self) -> float:
        """Seconds until the next push may leave; 0 when it may leave now."""
        now = time.monotonic()
        self._credit = min(self._credit + (now - self._credit_at) * PUSHES_PER_S, float(PUSH_BURST))
        self._credit_at = now
        return max((1 - self._credit) / PUSHES_PER_S, 0.0)

    def _report(self) -> dict[str, Any]:
        state = self._board.state()
        error_rate, sample_error = self._board.failures()
        # An uptime of 0 marks a task push, which the control plane does not count as a full report.
        uptime_s = max(int(time.monotonic() - self._started), 1)
        return self._body(state, error_rate, sample_error, uptime_s)

    def _body(self, state: TaskState, error_rate: float, sample_error: str, uptime_s: int) -> dict[str, Any]:
        return {
            "workspace_id": self._platform.workspace_id,
            "error_rate": error_rate,
            "sample_error": sample_error,
            "active_tasks": state.active,
            "current_task": state.current,
            "uptime_seconds": uptime_s,
        }

    def _send(self, body: dict[str, Any]) -> float:
        """Send one beat; return the seconds until the next regular one."""
        try:
            answer = self._platform.post("/registry/heartbeat", body)
        except Unreachable as error:
            log.warning("heartbeat failed: %s", error)
            return min(self._interval_s, RETRY_S)
        if answer.ok:
            self._refusals = 0
            self._credentials.accept(answer.body)
            return spread(self._interval_s, 0.05)
        self._raise_if_gone(answer)
        if answer.status in (401, 403):
            self._count_refusal(answer)
        else:
            self._refusals = 0
            log.warning("heartbeat failed: %s", answer.error)
        retry_after_s = answer.retry_after_s or 0.0
        self._credit = min(self._credit, 1 - retry_after_s * PUSHES_PER_S)  # pushes wait as well
        return max(min(self._interval_s, RETRY_S), retry_after_s)

    def _raise_if_gone(self, answer: Answer) -> None:
        gone = answer.status == 410 or (answer.status == 401 and answer.code == "workspace_removed")
        if answer.status == 404:  # a proxy's own 404 page is not the control plane's word
            gone = isinstance(answer.body, dict)
        if gone:
            raise AgentExit(ExitCode.GONE, f"the workspace was removed: {answer.error}")

    def _count_refusal(self, answer: Answer) -> None:
        self._refusals += 1
        log.error("heartbeat refused (%d of %d): %s", self._refusals, REFUSALS_LIMIT, answer.error)
        if self._refusals == 1 and workspace_is_deleted(self._platform):
            raise AgentExit(ExitCode.GONE, "the workspace was removed")
        if self._refusals >= REFUSALS_LIMIT:
            raise AgentExit(
                ExitCode.REFUSED,
                f"the control plane refused this agent's token {REFUSALS_LIMIT} times in a row: "
                f"{answer.error}; it was revoked or rotated, start the agent with the new one",
            )
