"""How the process ends: its exit codes, and the one door every thread leaves through."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import IntEnum
from queue import SimpleQueue


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1  # cannot listen, or a fault of the agent itself
    USAGE = 2  # wrong options or files, or the control plane calls the registration malformed
    REFUSED = 3  # the control plane refuses the credential
    GONE = 4  # the workspace was removed or never existed


class AgentExit(Exception):
    """Ends the agent with `code`; the message is for a person and never holds a secret."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Exit:
    code: ExitCode
    message: str


class Shutdown:
    """The first request to end wins; loops watch `stopping`, the main thread sits in `wait()`."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._requests: SimpleQueue[Exit] = SimpleQueue()

    def request(self, code: ExitCode, message: str = "") -> None:
        """Ask the process to end. Safe inside a signal handler: an Event is not, SimpleQueue.put is."""
        self._requests.put(Exit(code, message))

    def wait(self) -> Exit:
        """Block until somebody asks for the end, tell the loops, and return the reason."""
        reason = self._requests.get()
        self.stopping.set()
        return reason
