"""`/workspaces/:id/terminal`: a shell inside a workspace's container, bytes both ways.

Source: docs/reference/panels.md, Terminal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import UUID

import structlog

from access.credentials import Kind
from access.permissions import require_org_of, require_workspace
from access.sockets import GuardedSocket
from config.errors import BadGateway, Forbidden, NotFound, Unauthorized, Unavailable, Unprocessable
from config.http import workspace_uuid
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass, NotRunning, Shell, Unsupported
from workspaces.models import Workspace
from workspaces.selectors import can_communicate

log = structlog.get_logger(__name__)
T = TypeVar("T")

IDLE_S = 30 * 60
IDLE_LOOK_S = 15.0
MAX_GIVEN_BYTES = 1024 * 1024
MAX_OPEN = 64  # per process: each has two threads of its own
TOO_BIG = 1009
NO_DOCKER = "Docker not available"


class TerminalSocket(GuardedSocket):
    _shell: Shell | None = None
    _open = 0

    def admit(self) -> None:
        """Whoever may act on the workspace, and agents that may talk to it, with a token of their own.

        Raises Unauthorized, Forbidden, BadRequest, Unavailable.
        """
        self.check_origin()
        principal = self.principal()
        claimed = self.header("x-workspace-id")
        speaks_for = workspace_uuid(claimed) if claimed else self._workspace_id
        if speaks_for == self._workspace_id:
            require_workspace(principal, self._workspace_id)
            return
        is_own = principal.kind == Kind.WORKSPACE and principal.workspace_id == speaks_for
        if not is_own and not principal.is_admin_class:
            raise Unauthorized("invalid token for claimed workspace")
        require_org_of(principal, self._workspace_id)
        if not can_communicate(speaks_for, self._workspace_id):
            raise Forbidden("workspaces cannot communicate per hierarchy rules")

    def prepare(self) -> None:
        """Open the shell. Raises NotFound, Unprocessable, Unavailable, BadGateway."""
        row = Workspace.objects.live().filter(pk=self._workspace_id).first()
        if row is None:
            raise NotFound("workspace not found")
        if not row.is_managed:
            raise Unprocessable("an external workspace has no terminal here")
        if TerminalSocket._open >= MAX_OPEN:
            raise Unavailable("too many terminals are open — close one")
        try:
            self._shell = dispatch.open_shell(self._workspace_id, IDLE_S)
        except NotRunning as error:
            raise NotFound(error.safe_message) from None
        except BackendError as error:
            log.warning("terminal.failed", workspace_id=str(self._workspace_id), error=error.detail)
            is_away = isinstance(error, Unsupported) or error.error_class in _AWAY
            raise (Unavailable(NO_DOCKER) if is_away else BadGateway(error.safe_message)) from None

    async def opened(self) -> None:
        TerminalSocket._open += 1
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="terminal")
        self._used_at = time.monotonic()
        self.tasks = [asyncio.create_task(self._show()), asyncio.create_task(self._end_when_idle())]
        log.info("terminal.opened", workspace_id=str(self._workspace_id))

    async def disconnect(self, code: int) -> None:
        await super().disconnect(code)
        if self._shell is None:
            return
        TerminalSocket._open -= 1
        log.info("terminal.closed", workspace_id=str(self._workspace_id), code=code)
        try:
            await asyncio.to_thread(self._shell.close)
        finally:
            self._threads.shutdown(wait=False)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        given = bytes_data if bytes_data is not None else (text_data or "").encode()
        if self._shell is None or len(given) > MAX_GIVEN_BYTES:
            await self.close(code=TOO_BIG)
            return
        self._used_at = time.monotonic()
        shell = self._shell
        try:
            await self._in_own_thread(lambda: shell.write(given))
        except OSError:
            await self.close()

    @property
    def _workspace_id(self) -> UUID:
        return workspace_uuid(self.scope["url_route"]["kwargs"]["workspace_id"])

    async def _show(self) -> None:
        assert self._shell is not None
        while printed := await self._in_own_thread(self._shell.read):
            self._used_at = time.monotonic()
            await self.send(bytes_data=printed)
        await self.send(text_data="\r\nthe shell has ended\r\n")
        await self.close()

    async def _end_when_idle(self) -> None:
        while time.monotonic() - self._used_at < IDLE_S:
            await asyncio.sleep(IDLE_LOOK_S)
        await self.send(text_data=f"\r\nclosed after {IDLE_S // 60} minutes without use\r\n")
        await self.close()

    async def _in_own_thread(self, call: Callable[[], T]) -> T:
        """A shell may be silent for half an hour: the pool of the process is not for waiting."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


_AWAY = {ErrorClass.NO_BACKEND, ErrorClass.TRANSIENT, ErrorClass.TIMEOUT}
