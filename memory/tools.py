"""Memory as tools of the MCP bridge: always listed, whatever is switched on.

Source: docs/reference/memory.md, Tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import structlog
from django.utils import timezone

from config.errors import BadRequest, Forbidden, NotFound
from config.http import rfc3339
from memory import config
from memory.models import Scope
from memory.namespaces import Place, reach_of
from memory.services import audit, memories, records
from memory.services.scoped import Question
from memory_store.contract import KINDS, SEARCH_LIMIT, SEARCH_MOST, Search, StoreError, memory_json
from workspaces.models import Workspace
from workspaces.tools import Arguments, Tool, ToolError, schema, shown, text_of

log = structlog.get_logger(__name__)

SURFACE = "mcp"
SUMMARY_LIFE = timedelta(days=30)
UNAVAILABLE = "memory temporarily unavailable"
NO_GLOBAL = "GLOBAL scope is not permitted via the MCP bridge \u2014 use "


def commit_memory(workspace: Workspace, given: Arguments) -> str:
    content = text_of(given, "content")
    scope = _scope(given, default="LOCAL", advice="LOCAL or TEAM")
    with _explained():
        stored = memories.commit(workspace, content, scope, surface=SURFACE)
    audit.used_by_tool(workspace.pk, "memory_write", stored.id, stored.namespace)
    return _compact({"id": stored.id, "scope": scope})


def recall_memory(workspace: Workspace, given: Arguments) -> str:
    scope = _scope(given, default="", advice="LOCAL, TEAM, or empty")
    query = given.get("query")
    wanted = Question(scopes=_recalled_scopes(scope), text=query.strip() if isinstance(query, str) else "")
    with _explained():
        found = memories.search(workspace, wanted, surface=SURFACE)
    if not found:
        return "No memories found."
    return shown(
        [
            {
                "id": one.id,
                "content": one.shown_to_tool,
                "scope": one.scope,
                "created_at": rfc3339(one.created_at),
            }
            for one in found
        ]
    )


def commit_memory_v2(workspace: Workspace, given: Arguments) -> str:
    return _committed(workspace, given, _kind(given), _moment(given), activity="memory_write")


def commit_summary(workspace: Workspace, given: Arguments) -> str:
    ends_at = _moment(given) or timezone.now() + SUMMARY_LIFE
    return _committed(workspace, given, "summary", ends_at, activity="memory_summary_write")


def search_memory(workspace: Workspace, given: Arguments) -> str:
    _need_store()
    wanted = Search(
        namespaces=_texts(given, "namespaces"),
        query=given["query"].strip() if isinstance(given.get("query"), str) else "",
        kinds=[_checked_kind(one) for one in _texts(given, "kinds")],
        limit=_limit(given.get("limit")),
    )
    with _explained():
        found = records.search(workspace, wanted, surface=SURFACE)
    return _compact({"memories": [{**memory_json(one), "content": records.shown(one)} for one in found]})


def list_readable_namespaces(workspace: Workspace, given: Arguments) -> str:
    return _listed(workspace, lambda one: True)


def list_writable_namespaces(workspace: Workspace, given: Arguments) -> str:
    return _listed(workspace, lambda one: one.is_writable)


def forget_memory(workspace: Workspace, given: Arguments) -> str:
    memory_id = text_of(given, "memory_id")
    _need_store()
    name = _namespace(workspace, given)
    if not reach_of(workspace.pk).can_write(name):
        raise ToolError(f"workspace {workspace.pk} cannot forget memory in namespace {name}")
    with _explained():
        records.forget(workspace, memory_id, [name])
    audit.used_by_tool(workspace.pk, "memory_delete", memory_id, name)
    return _compact({"forgotten": True})


def _committed(
    workspace: Workspace, given: Arguments, kind: str, ends_at: datetime | None, *, activity: str
) -> str:
    content = text_of(given, "content")
    _need_store()
    name = _namespace(workspace, given)
    wanted = records.NewRecord(content, name, kind, expires_at=ends_at, pin=given.get("pin") is True)
    with _explained():
        memory_id = records.commit(workspace, wanted, surface=SURFACE)
    audit.used_by_tool(workspace.pk, activity, memory_id, name)
    return _compact({"id": memory_id, "namespace": name})


def _listed(workspace: Workspace, is_wanted: Callable[[Place], bool]) -> str:
    _need_store()
    with _explained():
        places = [one for one in reach_of(workspace.pk).places if is_wanted(one)]
    return shown([_place(one) for one in places])


def _place(one: Place) -> dict[str, Any]:
    named = {"display_name": one.display_name} if one.display_name else {}
    about = {
        "workspace": "only this workspace reads and writes it",
        "team": "a lead and its direct children share it",
        "org": "everybody of the org reads it, its root writes it",
    }[one.kind]
    return {"name": one.name, "kind": one.kind, "description": about, "writable": one.is_writable, **named}


def _need_store() -> None:
    if not config.is_wired():
        raise ToolError(config.NOT_CONFIGURED)


@contextmanager
def _explained() -> Iterator[None]:
    """What the caller did is told to it; what the store says of itself is not."""
    try:
        yield
    except (BadRequest, Forbidden, NotFound) as error:
        raise ToolError(error.text) from None
    except StoreError as error:
        log.warning("memory.backend_failed", code=str(error.code), reason=error.message)
        raise ToolError(UNAVAILABLE) from None


def _scope(given: Arguments, *, default: str, advice: str) -> str:
    named = given.get("scope")
    if named is not None and not isinstance(named, str):
        raise ToolError("scope must be LOCAL or TEAM")
    scope = named.strip().upper() if named else default
    if scope == Scope.GLOBAL:
        raise ToolError(NO_GLOBAL + advice)
    if scope not in {Scope.LOCAL, Scope.TEAM, default}:
        raise ToolError("scope must be LOCAL or TEAM")
    return scope


def _recalled_scopes(scope: str) -> list[str]:
    """Records know more than the first store shows here: the org's, and a lead's team beside its own."""
    if not config.is_primary():
        return [scope] if scope else [Scope.LOCAL, Scope.TEAM]
    return {"LOCAL": [Scope.LOCAL], "TEAM": [Scope.LOCAL, Scope.TEAM]}.get(scope, list(Scope))  # type: ignore[return-value]


def _namespace(workspace: Workspace, given: Arguments) -> str:
    named = given.get("namespace")
    if named is not None and not isinstance(named, str):
        raise ToolError("namespace must be a text")
    return named or f"workspace:{workspace.pk}"


def _kind(given: Arguments) -> str:
    named = given.get("kind")
    return "fact" if named in (None, "") else _checked_kind(named)


def _checked_kind(kind: Any) -> str:
    if kind not in KINDS:
        raise ToolError("invalid kind")
    return str(kind)


def _moment(given: Arguments) -> datetime | None:
    named = given.get("expires_at")
    if named in (None, ""):
        return None
    try:
        moment = datetime.fromisoformat(named)
        if moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise ToolError("invalid expires_at: must be RFC3339") from None
    if moment <= timezone.now():
        raise ToolError("invalid expires_at: must be in the future")
    return moment


def _texts(given: Arguments, name: str) -> list[str]:
    value = given.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ToolError(f"{name} must be a list of texts")
    return value


def _limit(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given <= 0:
        return SEARCH_LIMIT
    return min(given, SEARCH_MOST)


def _compact(value: Any) -> str:
    return orjson.dumps(value).decode()


_MOMENT = {"expires_at": {"type": "string", "format": "date-time"}}
_HOME = {"namespace": {"type": "string"}}
_KIND = {"type": "string", "enum": list(KINDS)}
_SCOPE = {"type": "string", "enum": [Scope.LOCAL.value, Scope.TEAM.value]}
_LIST = {"type": "array", "items": {"type": "string"}}

TOOLS = {
    "commit_memory": Tool(
        commit_memory, "Remember something, for yourself or your team.", schema("content", {"scope": _SCOPE})
    ),
    "recall_memory": Tool(
        recall_memory, "Find what you or your team remember.", schema("query", {"scope": _SCOPE})
    ),
    "commit_memory_v2": Tool(
        commit_memory_v2,
        "Remember something in a namespace, with a kind and an end.",
        schema("content", {**_HOME, "kind": _KIND, **_MOMENT, "pin": {"type": "boolean"}}),
    ),
    "search_memory": Tool(
        search_memory,
        "Search the namespaces you can read.",
        schema(
            "",
            {
                "query": {"type": "string"},
                "namespaces": _LIST,
                "kinds": {"type": "array", "items": _KIND},
                "limit": {"type": "integer"},
            },
        ),
    ),
    "commit_summary": Tool(
        commit_summary, "Remember a summary for 30 days.", schema("content", {**_HOME, **_MOMENT})
    ),
    "list_writable_namespaces": Tool(list_writable_namespaces, "The namespaces you can write to.", schema()),
    "list_readable_namespaces": Tool(list_readable_namespaces, "The namespaces you can read.", schema()),
    "forget_memory": Tool(forget_memory, "Forget a record.", schema("memory_id", _HOME)),
}
