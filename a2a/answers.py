"""Reading what an agent said: an answer, an error, or a task that goes on. One reader for everybody.

Source: docs/reference/a2a.md, Answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from a2a.results import Kind
from config.http import to_json

OPEN_STATES = frozenset({"submitted", "working", "input-required", "auth-required", "unknown"})


@dataclass(frozen=True)
class Answer:
    """`text` of an answer or of a task that goes on, `error` of a refusal."""

    kind: Kind
    text: str = ""
    error: str = ""


def read_answer(body: Any) -> Answer | None:
    """None for what is no answer: neither result nor error, or a mere "accepted, not answered"."""
    if not isinstance(body, dict):
        return None
    if body.get("error") is not None and "error" in body:
        return Answer(Kind.RPC_ERROR, error=error_text(body) or "agent error")
    if "result" not in body or is_ack(body):
        return None
    result = body["result"]
    status = result.get("status") if isinstance(result, dict) else None
    state = status.get("state") if isinstance(status, dict) else None
    kind = Kind.TASK_OPEN if state in OPEN_STATES else Kind.ANSWER
    return Answer(kind, text=result_text(result))


def is_ack(body: Any) -> bool:
    """Accepted, not answered: whatever the status says."""
    return isinstance(body, dict) and (body.get("queued") is True or body.get("status") == "queued")


def error_text(body: Any) -> str:
    """The text of an error body: `error` itself, or its `message`."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) else ""


def result_text(result: Any) -> str:
    """What was said; else the JSON itself."""
    return spoken_text(result) or to_json(result).decode()


def spoken_text(result: Any) -> str:
    """The first text of the result, its message, its status or its artifacts; empty when nothing was said."""
    if isinstance(result, dict):
        for parts in _places(result):
            if text := parts_text(parts):
                return text
    return ""


def parts_text(parts: Any) -> str:
    """The text parts, joined by newlines; `kind` and `type` are both spoken."""
    if not isinstance(parts, list):
        return ""
    return "\n".join(
        part["text"]
        for part in parts
        if isinstance(part, dict)
        and "text" in (part.get("kind"), part.get("type"))
        and isinstance(part.get("text"), str)
    )


def _places(result: dict[str, Any]) -> Iterator[Any]:
    yield result.get("parts")
    yield _of(result.get("message"), "parts")
    yield _of(_of(result.get("status"), "message"), "parts")
    artifacts = result.get("artifacts")
    if isinstance(artifacts, list):
        yield [part for one in artifacts for part in _of(one, "parts") or [] if isinstance(part, dict)]


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def usage(body: Any) -> dict[str, Any] | None:
    """Token counts, wherever the agent put them."""
    inner = _of(_of(body, "result"), "usage")
    given = inner if isinstance(inner, dict) else _of(body, "usage")
    return given if isinstance(given, dict) else None


def tool_trace(body: Any) -> Any:
    return _of(_of(_of(body, "result"), "metadata"), "tool_trace")
