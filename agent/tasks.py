"""What the agent is doing right now, and how often it failed lately."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TASK_TEXT_LIMIT = 200  # characters of a message shown as the current task
WINDOW_S = 300.0  # outcomes older than this no longer count
MIN_SAMPLE = 4  # one failed message out of one is no failure rate of 100 %


@dataclass(frozen=True, slots=True)
class TaskState:
    active: int
    current: str  # the task started last among those still running; "" when idle


@dataclass(slots=True)
class Task:
    text: str
    failure: str = ""  # set by whoever works on it; an exception sets it too


class Busy(Exception):
    """As many tasks are running as this agent does at once."""


@dataclass(slots=True)
class TaskBoard:
    """Counts running tasks and tells `on_change` after each start and end, in the order they happened."""

    on_change: Callable[[TaskState], None]
    most: int | None = None  # tasks at once; None: as many as come
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: list[Task] = field(default_factory=list)
    _outcomes: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=50))

    @contextmanager
    def task(self, text: str) -> Iterator[Task]:
        """Raises Busy."""
        task = Task(text[:TASK_TEXT_LIMIT])
        with self._lock:
            if self.most is not None and len(self._running) >= self.most:
                raise Busy
            self._running.append(task)
            self.on_change(self._state())
        try:
            yield task
        except Exception as error:
            task.failure = task.failure or type(error).__name__
            raise
        finally:
            with self._lock:
                self._running = [other for other in self._running if other is not task]
                self._outcomes.append((time.monotonic(), task.failure))
                self.on_change(self._state())

    def state(self) -> TaskState:
        with self._lock:
            return self._state()

    def failures(self) -> tuple[float, str]:
        """(share of failed tasks in the last five minutes, 0 to 1; text of the latest failure or "")."""
        oldest = time.monotonic() - WINDOW_S
        with self._lock:
            recent = [failure for at, failure in self._outcomes if at >= oldest]
        failed = [failure for failure in recent if failure]
        return len(failed) / max(len(recent), MIN_SAMPLE), failed[-1] if failed else ""

    def _state(self) -> TaskState:
        return TaskState(len(self._running), self._running[-1].text if self._running else "")
