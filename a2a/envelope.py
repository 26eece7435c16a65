"""A2A messages: one normal form for whatever clients send. Source: docs/reference/a2a.md, The envelope."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from config.errors import BadRequest

_EXAMPLE = 'v0.3 example: {"parts":[{"kind":"text","text":"..."}]}'


def normalised(body: Any) -> dict[str, Any]:
    """The JSON-RPC envelope of `body`, with ids, role and `kind` of parts filled in. Raises BadRequest."""
    if not isinstance(body, dict) or not body:
        raise BadRequest("invalid JSON")
    if "jsonrpc" in body:
        envelope = dict(body)
    else:
        envelope = {
            "jsonrpc": "2.0",
            "id": str(uuid4()),
            "method": body.get("method"),
            "params": body.get("params"),
        }
    params = envelope.get("params")
    message = params.get("message") if isinstance(params, dict) else None
    if isinstance(params, dict) and isinstance(message, dict):
        envelope["params"] = {**params, "message": _message(message)}
    return envelope


def _message(message: dict[str, Any]) -> dict[str, Any]:
    filled = dict(message)
    filled.setdefault("messageId", str(uuid4()))
    filled.setdefault("role", "user")
    if "parts" not in filled:
        filled["parts"] = _parts_of_content(filled)
        del filled["content"]
    if isinstance(filled["parts"], list):
        filled["parts"] = [_part(part) for part in filled["parts"]]
    return filled


def _parts_of_content(message: dict[str, Any]) -> list[Any]:
    if "content" not in message:
        raise BadRequest(
            "params.message must contain either 'parts' (v0.3) or 'content' (v0.2 compat)", hint=_EXAMPLE
        )
    match message["content"]:
        case str() as text:
            return [{"kind": "text", "text": text}]
        case list() as parts:
            return parts
    raise BadRequest(
        "invalid params.message.content type",
        hint="content must be a string (v0.2 compat) or omitted in favour of parts (v0.3)",
    )


def _part(part: Any) -> Any:
    if isinstance(part, dict) and "kind" not in part and "type" in part:
        return {**part, "kind": part["type"]}
    return part


def text_of(envelope: dict[str, Any]) -> str:
    """The text parts of the message, joined by newlines; empty for a message without text."""
    params = envelope.get("params")
    message = params.get("message") if isinstance(params, dict) else None
    parts = message.get("parts") if isinstance(message, dict) else None
    texts = [
        part.get("text") for part in parts or [] if isinstance(part, dict) and part.get("kind") == "text"
    ]
    return "\n".join(text for text in texts if isinstance(text, str))


def message_id(envelope: dict[str, Any]) -> str | None:
    params = envelope.get("params")
    message = params.get("message") if isinstance(params, dict) else None
    given = message.get("messageId") if isinstance(message, dict) else None
    return given if isinstance(given, str) and given else None
