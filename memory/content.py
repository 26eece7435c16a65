"""What may be stored as a memory, and how a memory of the whole org is shown to agents.

Source: docs/reference/memory.md, Content.
"""

from __future__ import annotations

import re
from uuid import UUID

import structlog

from activity.redaction import redacted
from activity.tally import tally
from config.errors import BadRequest

log = structlog.get_logger(__name__)

MAX_BYTES = 100_000
REDACTION_CHARS = 1024 * 1024  # longer texts are refused, or cut, before anybody looks for secrets in them
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_OPENING = "[MEMORY "
_GUARDED = "[_MEMORY "


def prepared(text: str, *, is_for_org: bool, workspace_id: UUID) -> str:
    """The text to store: without credentials and, for the org, without what looks like our own wrapper.

    Raises BadRequest.
    """
    if not text.strip():
        raise BadRequest("content is required")
    if "\x00" in text or _LONE_SURROGATE.search(text):
        raise BadRequest("content contains invalid characters")
    if len(text) > REDACTION_CHARS:
        raise _too_long()
    stored = _clean(text, is_for_org=is_for_org, workspace_id=workspace_id)
    if len(stored.encode()) > MAX_BYTES:
        raise _too_long()
    return stored


def prepared_seed(text: str, *, is_for_org: bool, workspace_id: UUID) -> str:
    """The same for a text nobody waits for: cut instead of refused, after the credentials are gone, between
    two characters. Empty when nothing is left to store.
    """
    text = _LONE_SURROGATE.sub("\ufffd", text.replace("\x00", "\ufffd"))[:REDACTION_CHARS]
    stored = _clean(text, is_for_org=is_for_org, workspace_id=workspace_id)
    return stored.encode()[:MAX_BYTES].decode(errors="ignore") if stored.strip() else ""


def shown_by_scope(text: str, memory_id: str, author: str) -> str:
    """A GLOBAL memory as agents read it."""
    return f"{_opening_by_scope(memory_id, author)}{text}"


def shown_by_namespace(text: str, memory_id: str, namespace: str) -> str:
    """A record of `org:` as agents read it."""
    return f"{_OPENING}id={memory_id} scope=ORG ns={namespace}]: {text}"


def without_wrapper(text: str, memory_id: str, author: str) -> str:
    """An agent that edits what it read sends our wrapper along: exactly this row's own one goes."""
    return text.removeprefix(_opening_by_scope(memory_id, author))


def _opening_by_scope(memory_id: str, author: str) -> str:
    return f"{_OPENING}id={memory_id} scope=GLOBAL from={author}]: "


def _clean(text: str, *, is_for_org: bool, workspace_id: UUID) -> str:
    stored, labels = redacted(text)
    for label in sorted(labels):
        tally.add("molecule_memory_redactions_total", label=label)
        log.info("memory.redacted", label=label, workspace_id=str(workspace_id))
    return stored.replace(_OPENING, _GUARDED) if is_for_org else stored


def _too_long() -> BadRequest:
    return BadRequest(f"content must be <= {MAX_BYTES} bytes")
