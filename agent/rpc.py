"""The JSON-RPC side of the agent: one request in, one answer out, no HTTP."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from agent.client import Unreachable
from agent.delegations import Delegations, Refused
from agent.messages import Message, agent_message, quoted, read_message
from agent.replies import Errand, Reply, RpcError, Script
from agent.tasks import TaskBoard

log = logging.getLogger("agent")

PARSE_ERROR = RpcError(-32700, "Parse error")
INVALID_REQUEST = RpcError(-32600, "Invalid Request")
METHOD_NOT_FOUND = RpcError(-32601, "Method not found")
INVALID_PARAMS = RpcError(-32602, "params.message is required")


ERRAND_S = 300.0  # for a task that was handed on


class Stopping(Exception):
    """The agent was told to end while the message was being worked on; the sender should try again."""


class Misbehaving(Exception):
    """The script says so: `how` is `garbage` (no JSON) or `drop` (the connection is closed)."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass(frozen=True, slots=True)
class Answering:
    """What is needed to answer a message, the same for the HTTP endpoint and the inbox."""

    script: Script
    board: TaskBoard
    stopping: threading.Event
    delegations: Delegations | None = None

    def answer(self, raw: bytes) -> dict[str, Any]:
        """The JSON-RPC answer to `raw`; errors of the caller are answers too. Raises as work_on does."""
        try:
            request = json.loads(raw)
        except (ValueError, RecursionError):
            return _failed(None, PARSE_ERROR)
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _failed(request.get("id") if isinstance(request, dict) else None, INVALID_REQUEST)
        request_id = request.get("id")
        if request["method"] != "message/send":
            return _failed(request_id, METHOD_NOT_FOUND)
        message = read_message(request)
        if message is None:
            return _failed(request_id, INVALID_PARAMS)
        started = time.monotonic()
        outcome = self.work_on(message)
        log.info(
            "answered message %s in %d ms",
            quoted(message.message_id, 80),
            (time.monotonic() - started) * 1000,
        )
        if isinstance(outcome, RpcError):
            return _failed(request_id, outcome)
        return {"jsonrpc": "2.0", "id": request_id, "result": agent_message(outcome)}

    def work_on(self, message: Message) -> str | RpcError:
        """The reply to a message, after its delay, shown as a task while it lasts.

        Raises Busy, Stopping, and Misbehaving when the script says so.
        """
        reply = self.script.reply_to(message.text)
        with self.board.task(message.text) as task, self._beating(message):
            if reply.delay_s and self.stopping.wait(reply.delay_s):
                raise Stopping
            if reply.failure:
                self._fail(reply)
            if reply.errand is not None:
                return self._run_errand(reply.errand, message)
            if reply.error is not None:
                task.failure = reply.error.message or f"error {reply.error.code}"
                return reply.error
        return "\n".join([reply.text, *message.files])

    def _beating(self, message: Message) -> AbstractContextManager[None]:
        return self.delegations.beating(message.delegation_id) if self.delegations else nullcontext()

    def _fail(self, reply: Reply) -> None:
        log.warning("failing as the script says: %s", reply.failure)
        if reply.failure == "crash":
            os._exit(70)
        if reply.failure == "hang":
            self.stopping.wait()
            raise Stopping
        raise Misbehaving(reply.failure)

    def _run_errand(self, errand: Errand, message: Message) -> str | RpcError:
        """The result of what was handed on; the message's id makes a repeat the same delegation."""
        if self.delegations is None:
            return RpcError(-32000, "this agent delegates nothing")
        try:
            delegation_id = self.delegations.delegate(errand.to, errand.task, message.message_id)
            ended = self.delegations.wait(delegation_id, ERRAND_S)
        except (Refused, Unreachable) as error:
            return RpcError(-32000, f"the delegation was not taken: {error}")
        if ended is None:
            return RpcError(-32000, f"delegation {delegation_id} has not ended yet")
        return ended.text if ended.is_completed else RpcError(-32000, ended.text)


def _failed(request_id: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": error.code, "message": error.message}}
