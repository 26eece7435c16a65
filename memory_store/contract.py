"""What passes between the server and a memory backend, over HTTP or not: values, their checks, their JSON.

Source: docs/reference/memory-plugin.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any, Final, Literal, TypeGuard
from uuid import UUID

VERSION = "1.0.0"
SCOPES_OF_TREE = ("workspace", "team", "org")  # names that begin so are of that kind
NAMESPACE_KINDS = (*SCOPES_OF_TREE, "custom")
KINDS = ("fact", "summary", "checkpoint")
SOURCES = ("agent", "runtime", "user")
NAME_CHARS = 256
SEARCH_LIMIT = 20  # when a search names none
SEARCH_MOST = 100
_NAME = re.compile(r"[a-z]+:[A-Za-z0-9_:.\-]+")


class Code(StrEnum):
    BAD_REQUEST = "bad_request"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


class StoreError(Exception):
    """What a backend refuses or cannot do; `message` never holds text of a database."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Kept(Enum):
    """An omitted field: what is stored stays. None clears it."""

    KEPT = "kept"


KEPT: Final = Kept.KEPT
KeptOr = Literal[Kept.KEPT]


@dataclass(frozen=True)
class Namespace:
    name: str
    kind: str
    created_at: datetime
    expires_at: datetime | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class Write:
    """One record to be stored. With an `id` it replaces the record of that id: safe to repeat."""

    content: str
    kind: str = "fact"
    source: str = "agent"
    id: UUID | None = None
    expires_at: datetime | None = None
    propagation: dict[str, Any] | None = None
    pin: bool = False
    embedding: Sequence[float] | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class Memory:
    """One record as read. `id` is text: other backends may not use UUIDs. `score` is 0 to 1, best first."""

    id: str
    namespace: str
    content: str
    kind: str
    source: str
    created_at: datetime
    expires_at: datetime | None = None
    propagation: dict[str, Any] | None = None
    pin: bool = False
    score: float | None = None


@dataclass(frozen=True)
class Search:
    """Records of these namespaces; none named is an error and never means all."""

    namespaces: Sequence[str]
    query: str = ""
    kinds: Sequence[str] = ()
    limit: int = SEARCH_LIMIT
    embedding: Sequence[float] | None = None


@dataclass(frozen=True)
class Page:
    """One page of records or names; `next_cursor` is None at the end."""

    items: Sequence[Any]
    next_cursor: str | None = None


def sha256(content: str) -> str:
    """By it the same text is known again."""
    return hashlib.sha256(content.encode()).hexdigest()


def bad(message: str) -> StoreError:
    return StoreError(Code.BAD_REQUEST, message)


def kind_of(name: str) -> str:
    """The kind a namespace has by its prefix."""
    prefix = name.partition(":")[0]
    return prefix if prefix in SCOPES_OF_TREE else "custom"


def checked_name(name: Any) -> str:
    """Raises StoreError."""
    if not isinstance(name, str) or len(name) > NAME_CHARS or not _NAME.fullmatch(name):
        raise bad("invalid namespace name")
    return name


def checked_kind(name: str, kind: Any) -> str:
    """The kind of namespace `name`, which its prefix binds. Raises StoreError."""
    if kind not in NAMESPACE_KINDS:
        raise bad(f"kind must be one of {', '.join(NAMESPACE_KINDS)}")
    if name.partition(":")[0] in SCOPES_OF_TREE and kind != kind_of(name):
        raise bad("kind does not agree with the name's prefix")
    return str(kind)


def checked_write(write: Write) -> Write:
    """Raises StoreError."""
    if not write.content.strip():
        raise bad("content is required")
    if "\x00" in write.content or any("\ud800" <= character <= "\udfff" for character in write.content):
        raise bad("content contains invalid characters")
    if write.kind not in KINDS:
        raise bad(f"kind must be one of {', '.join(KINDS)}")
    if write.source not in SOURCES:
        raise bad(f"source must be one of {', '.join(SOURCES)}")
    return write


def checked_search(search: Search) -> Search:
    """Raises StoreError. A limit of 0 is the default."""
    if not search.namespaces:
        raise bad("namespaces must not be empty")
    for name in search.namespaces:
        checked_name(name)
    if any(kind not in KINDS for kind in search.kinds):
        raise bad(f"kinds must be of {', '.join(KINDS)}")
    if not 0 <= search.limit <= SEARCH_MOST:
        raise bad(f"limit must be 0 to {SEARCH_MOST}")
    return search


def namespace_json(one: Namespace) -> dict[str, Any]:
    return _present(name=one.name, kind=one.kind, created_at=_moment_text(one.created_at),
                    expires_at=_moment_text(one.expires_at), metadata=one.metadata)  # fmt: skip


def memory_json(one: Memory) -> dict[str, Any]:
    return _present(id=one.id, namespace=one.namespace, content=one.content, kind=one.kind, source=one.source,
                    created_at=_moment_text(one.created_at), expires_at=_moment_text(one.expires_at),
                    propagation=one.propagation, pin=one.pin or None, score=one.score)  # fmt: skip


def write_json(one: Write) -> dict[str, Any]:
    return _present(content=one.content, kind=one.kind, source=one.source, id=one.id and str(one.id),
                    expires_at=_moment_text(one.expires_at), propagation=one.propagation, pin=one.pin or None,
                    embedding=one.embedding and list(one.embedding),
                    created_at=_moment_text(one.created_at))  # fmt: skip


def search_json(one: Search) -> dict[str, Any]:
    return _present(namespaces=list(one.namespaces), query=one.query or None, kinds=list(one.kinds) or None,
                    limit=one.limit, embedding=one.embedding and list(one.embedding))  # fmt: skip


def changes_json(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The named fields of a record, null included: what is not named stays."""
    return {
        name: _moment_text(value) if isinstance(value, datetime) else value for name, value in changes.items()
    }


def namespace_from(given: Any) -> Namespace:
    """Raises StoreError."""
    fields = read_object(given)
    return Namespace(
        checked_name(fields.get("name")),
        read_text(fields, "kind"),
        _needed(read_moment(fields, "created_at"), "created_at"),
        read_moment(fields, "expires_at"),
        read_object_or_none(fields, "metadata"),
    )


def memory_from(given: Any) -> Memory:
    """Raises StoreError."""
    fields = read_object(given)
    score = fields.get("score")
    return Memory(
        id=read_text(fields, "id"),
        namespace=read_text(fields, "namespace"),
        content=read_text(fields, "content"),
        kind=read_text(fields, "kind"),
        source=read_text(fields, "source"),
        created_at=_needed(read_moment(fields, "created_at"), "created_at"),
        expires_at=read_moment(fields, "expires_at"),
        propagation=read_object_or_none(fields, "propagation"),
        pin=fields.get("pin") is True,
        score=float(score) if _is_number(score) else None,
    )


def write_from(given: Any) -> Write:
    """Raises StoreError."""
    fields = read_object(given)
    return checked_write(
        Write(
            content=read_text(fields, "content"),
            kind=read_text(fields, "kind"),
            source=read_text(fields, "source"),
            id=read_uuid(fields.get("id")) if fields.get("id") is not None else None,
            expires_at=read_moment(fields, "expires_at"),
            propagation=read_object_or_none(fields, "propagation"),
            pin=read_flag(fields, "pin"),
            embedding=read_numbers(fields, "embedding"),
            created_at=read_moment(fields, "created_at"),
        )
    )


def changes_from(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record is to change; a field that is not named stays. Raises StoreError."""
    readers: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
        "content": read_text,
        "kind": read_text,
        "expires_at": read_moment,
        "propagation": read_object_or_none,
        "pin": read_flag,
    }
    return {name: read(fields, name) for name, read in readers.items() if name in fields}


def search_from(given: Any) -> Search:
    """Raises StoreError."""
    fields = read_object(given)
    limit = fields.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise bad("limit must be a whole number")
    query = fields.get("query")
    if query is not None and not isinstance(query, str):
        raise bad("query must be a text")
    return checked_search(
        Search(
            namespaces=_texts(fields, "namespaces"),
            query=query or "",
            kinds=_texts(fields, "kinds"),
            limit=limit or SEARCH_LIMIT,
            embedding=read_numbers(fields, "embedding"),
        )
    )


def read_object(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise bad("a JSON object is needed")
    return given


def read_object_or_none(fields: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise bad(f"{name} must be an object")
    return value


def read_text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise bad(f"{name} is required")
    return value


def read_flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad(f"{name} must be true or false")
    return bool(value)


def uuid_or_none(value: Any) -> UUID | None:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        return None


def read_uuid(value: Any) -> UUID:
    found = uuid_or_none(value)
    if found is None:
        raise bad("id must be a UUID")
    return found


def read_moment(fields: Mapping[str, Any], name: str) -> datetime | None:
    """RFC 3339 with an offset."""
    value = fields.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise bad(f"{name} must be RFC 3339") from None
    if moment.tzinfo is None:
        raise bad(f"{name} must be RFC 3339")
    return moment


def read_numbers(fields: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(_is_number(one) for one in value):
        raise bad(f"{name} must be a list of finite numbers")
    return tuple(float(one) for one in value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise bad(f"{name} must be a list of texts")
    return tuple(value)


def _needed(moment: datetime | None, name: str) -> datetime:
    if moment is None:
        raise bad(f"{name} is required")
    return moment


def _moment_text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
