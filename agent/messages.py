"""A2A envelopes: reading the text of a message, building an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4, uuid5

# Answers to one inbox row always carry the same messageId, so that a repeated delivery can be recognised.
REPLY_NAMESPACE = UUID("6f1c1d0e-6a1f-4d0c-9d5e-2b7f1c0a9e11")


@dataclass(frozen=True, slots=True)
class Message:
    """One A2A message as this agent uses it: its text, and the uris of its files."""

    text: str
    role: str
    message_id: str
    delegation_id: str | None
    files: tuple[str, ...] = ()


def read_message(envelope: Any) -> Message | None:
    """The message of a JSON-RPC envelope, None when there is none. Never raises, whatever the shape."""
    params = _object(_object(envelope).get("params"))
    message = params.get("message")
    if not isinstance(message, dict):
        return None
    metadata = {**_object(params.get("metadata")), **_object(message.get("metadata"))}
    parts = message.get("parts") if "parts" in message else message.get("content")
    return Message(
        _text(parts),
        _string(message.get("role")) or "user",
        _string(message.get("messageId")),
        _string(metadata.get("delegation_id")) or None,
        tuple(file["uri"] for file in _files(parts)),
    )


def with_local_files(envelope: Any, local_uri: Callable[[str], str]) -> Any:
    """The envelope with the uri of every file passed through `local_uri`, wherever parts may stand."""
    params = _object(_object(envelope).get("params"))
    for parts in (
        _object(params.get("message")).get("parts"),
        params.get("parts"),
        _object(envelope).get("parts"),
    ):
        for file in _files(parts):
            file["uri"] = local_uri(file["uri"])
    return envelope


def _files(parts: Any) -> Iterator[dict[str, Any]]:
    for part in parts if isinstance(parts, list) else []:
        file = _object(part).get("file")
        if isinstance(file, dict) and isinstance(file.get("uri"), str):
            yield file


def agent_message(text: str, message_id: str | None = None) -> dict[str, Any]:
    return {
        "kind": "message",
        "role": "agent",
        "messageId": message_id or str(uuid4()),
        "parts": [{"kind": "text", "text": text}],
    }


def send_request(text: str, row_id: str, delegation_id: str | None) -> dict[str, Any]:
    """The `message/send` that answers inbox row `row_id`; naming the delegation completes it."""
    reply_id = str(uuid5(REPLY_NAMESPACE, row_id))
    message = agent_message(text, reply_id)
    message["metadata"] = {"in_reply_to": row_id}
    if delegation_id:
        message["metadata"]["delegation_id"] = delegation_id
    return {"jsonrpc": "2.0", "id": reply_id, "method": "message/send", "params": {"message": message}}


def quoted(text: str, limit: int = 120) -> str:
    """`text` in double quotes on one line, cut to `limit` characters, free of terminal control codes."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return f'"{"".join(_visible(character) for character in shown)}"'


def _visible(character: str) -> str:
    if character == '"':
        return '\\"'
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _text(parts: Any) -> str:
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list):
        return ""
    return "\n".join(
        part["text"]
        for part in parts
        if isinstance(part, dict)
        and "text" in (part.get("kind"), part.get("type"))
        and isinstance(part.get("text"), str)
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
