"""A running agent: the threads, who starts when, and how they end."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from agent.client import Platform
from agent.credentials import Credentials
from agent.cursor import InboxCursor
from agent.delegations import Delegations
from agent.exits import AgentExit, Exit, ExitCode, Shutdown
from agent.folder import UploadFolder
from agent.heartbeat import Heartbeat, PushQueue
from agent.inbox import Inbox
from agent.registration import agent_card, register
from agent.replies import Script
from agent.rpc import Answering
from agent.server import AgentServer
from agent.tasks import TaskBoard
from agent.uploads import Uploads

log = logging.getLogger("agent")

DRAIN_S = 1.0  # for requests still being answered when the agent is told to end
JOIN_S = 0.5  # for the loops


@dataclass(frozen=True, slots=True)
class Settings:
    platform_url: str
    workspace_id: str
    credentials: Credentials
    script: Script
    heartbeat_s: float
    poll_s: float
    workspace_dir: Path  # what this agent calls /workspace
    state_dir: Path | None  # where the inbox cursor lives; None: push mode, no inbox
    name: str
    description: str
    announce: Callable[[str], None]  # one readable line per thing that happens
    own_url: str = ""  # where the control plane reaches this agent; "" in poll mode
    config_dir: Path | None = None
    listener: socket.socket | None = None
    max_tasks: int | None = None  # at once; one more is answered "busy"


@dataclass(slots=True)
class Agent:
    settings: Settings
    shutdown: Shutdown = field(default_factory=Shutdown)
    _pushes: PushQueue = field(default_factory=PushQueue)
    _threads: list[threading.Thread] = field(default_factory=list)

    def run(self) -> Exit:
        """Run until a signal, a fatal answer or `shutdown`; return why it ended. At most two seconds pass
        between the request to end and the return, whatever the threads are waiting for."""
        given = self.settings
        board = TaskBoard(self._pushes.put, given.max_tasks)
        platform = Platform(given.platform_url, given.workspace_id, given.credentials.token.read)
        answering = Answering(given.script, board, self.shutdown.stopping, Delegations(platform))
        card = agent_card(given.name, given.description, given.own_url)
        server = None
        if given.listener is not None:
            server = AgentServer(given.listener, answering, given.credentials.inbound_secret.read)
            server.folder = UploadFolder(given.workspace_dir)
            server.readable = {"/workspace": given.workspace_dir}
            if given.config_dir is not None:
                server.readable["/configs"] = given.config_dir
            server.card = card
            self._start("http", server.serve)
        self._start("control", lambda: self._control(platform, card, board, answering))
        reason = self.shutdown.wait()
        self._pushes.close()
        if server is not None:
            server.stop_accepting()
            server.drain(DRAIN_S)
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        return reason

    def end_on_signals(self) -> None:
        """Let SIGTERM and SIGINT end the agent cleanly. Main thread only."""

        def end(signum: int, frame: FrameType | None) -> None:
            self.shutdown.request(ExitCode.OK, signal.Signals(signum).name)

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)

    def _control(
        self, platform: Platform, card: dict[str, object], board: TaskBoard, answering: Answering
    ) -> None:
        given = self.settings
        stopping = self.shutdown.stopping
        poll = given.state_dir is not None
        if not register(platform, given.credentials, card, poll=poll, stopping=stopping):
            return
        given.announce("registered")
        if given.state_dir is not None:
            cursor = InboxCursor(given.state_dir / "cursor.json", given.workspace_id)
            uploads = Uploads(platform, UploadFolder(given.workspace_dir), given.announce)
            inbox = Inbox(platform, answering, cursor, uploads, given.poll_s, given.announce)
            self._start("inbox", lambda: inbox.run(stopping))
            self._start("uploads", lambda: uploads.run(stopping))
        Heartbeat(platform, given.credentials, board, self._pushes, given.heartbeat_s).run(stopping)

    def _start(self, name: str, loop: Callable[[], None]) -> None:
        """Run `loop` in a thread whose failure ends the agent: half an agent looks alive and does nothing."""

        def guarded() -> None:
            try:
                loop()
            except AgentExit as reason:
                self.shutdown.request(reason.code, str(reason))
            except Exception:
                log.exception("the %s thread failed", name)
                self.shutdown.request(ExitCode.FAILED, f"the {name} thread failed")

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
