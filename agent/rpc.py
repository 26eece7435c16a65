"""The JSON-RPC side of the agent: one request in, one answer out, no HTTP."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from agent.messages import Message, agent_message, quoted, read_message
from agent.replies import RpcError, Script
from agent.tasks import TaskBoard

log = logging.getLogger("agent")

PARSE_ERROR = RpcError(-32700, "Parse error")
INVALID_REQUEST = RpcError(-32600, "Invalid Request")
METHOD_NOT_FOUND = RpcError(-32601, "Method not found")
INVALID_PARAMS = RpcError(-32602, "params.message is required")


class Stopping(Exception):
    """The agent was told to end while the message was being worked on; the sender should try again."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What is needed to answer a message, the same for the HTTP endpoint and the inbox."""

    script: Script
    board: TaskBoard
    stopping: threading.Event

    def answer(self, raw: bytes) -> dict[str, Any]:
        """The JSON-RPC answer to `raw`; errors of the caller are answers too. Raises Stopping."""
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
        """The reply to a message, after its delay, shown as a task while it lasts. Raises Stopping."""
        reply = self.script.reply_to(message.text)
        with self.board.task(message.text) as task:
            if reply.delay_s and self.stopping.wait(reply.delay_s):
                raise Stopping
            if reply.error is not None:
                task.failure = reply.error.message or f"error {reply.error.code}"
                return reply.error
        return "\n".join([reply.text, *message.files])


def _failed(request_id: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": error.code, "message": error.message}}
