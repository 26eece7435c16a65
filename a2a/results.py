"""What became of a message: the one typed outcome of every dispatch.

Source: docs/reference/a2a.md, Outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID


class Kind(StrEnum):
    ANSWER = "answer"
    RPC_ERROR = "rpc_error"  # the agent's own error, in a 2xx
    TASK_OPEN = "task_open"  # a task that goes on
    QUEUED_BUSY = "queued_busy"  # the target is busy; the message waits in the queue
    QUEUED_POLL = "queued_poll"  # the message is in the inbox of a polling agent
    BUSY = "busy"  # and it was not queued
    SETTLING = "settling"  # the agent is being started, or its process comes back
    WAKING = "waking"
    DEAD = "dead"  # its compute is gone
    UNREACHABLE = "unreachable"
    AGENT_ERROR = "agent_error"  # the agent answered 300 or more, or nothing
    LOST_RESPONSE = "lost_response"  # it got the message, and its answer broke off
    DENIED = "denied"
    INVALID = "invalid"


class Delivered(StrEnum):
    """Whether the agent got the message. Only a plain `no` may be tried again."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


ANSWERS = frozenset({Kind.ANSWER, Kind.RPC_ERROR, Kind.TASK_OPEN})
GATEWAY = frozenset({502, 503, 504, 521, 522, 523, 524})
GATEWAY_UNKNOWN = frozenset({504, 524})  # the gateway gave up while the agent may be working


@dataclass(frozen=True)
class Result:
    """`http_status` and `body` are what an HTTP caller is told; `raw` the agent's very bytes.

    `text` is the answer, `error` the reason in one sentence. `is_gateway`: a proxy before the agent spoke.
    """

    kind: Kind
    delivered: Delivered
    http_status: int
    body: Any = None
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    error: str = ""
    is_gateway: bool = False
    is_the_agents: bool = False  # the agent spoke, whatever it said
    timed_out: bool = False  # the whole time given was used up
    queue_id: UUID | None = None

    @property
    def is_certainly_undelivered(self) -> bool:
        return self.delivered == Delivered.NO
