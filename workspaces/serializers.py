"""Bodies the workspace routes take, and the rows they give."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import F, FloatField, QuerySet, TextField, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from rest_framework import serializers

from access.serializers import secret_problem
from config.errors import BadRequest, Unprocessable
from config.fields import Finite, Flag, Place, Text, Whole
from workspaces.budgets import effective_spend
from workspaces.defaults import declared_timeouts, default_runtime, known_runtimes
from workspaces.models import EXTERNAL, Access, DeliveryMode, Workspace
from workspaces.services import NewWorkspace
from workspaces.slugs import NAME_CHARS, ROLE_CHARS, is_template_name, is_usable_folder, problem

BAD_PAYLOAD = "invalid workspace payload"
BAD_FIELDS = "invalid workspace fields"
MODEL_CHARS = 100
MAX_TASKS = 2_147_483_647  # what the column holds
SECRET_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Secrets(serializers.DictField):
    """Texts by key. A key that is no variable name would reach no agent."""

    child = Text()

    def to_internal_value(self, data: Any) -> dict[str, str]:
        given: dict[str, str] = super().to_internal_value(data)
        if not all(SECRET_KEY.fullmatch(key) for key in given):
            raise serializers.ValidationError("must be variable names")
        return given


class CreateInput(serializers.Serializer[Any]):
    """`POST /workspaces`. Wrong shapes collapse into one text; the rules of fields are in `new_workspace`."""

    error_text = BAD_PAYLOAD
    name = Text()
    role = Text(required=False, allow_null=True)
    template = Text(required=False, allow_null=True)
    tier = Whole(required=False, allow_null=True)
    runtime = Text(required=False, allow_null=True)
    model = Text(required=False, allow_null=True)
    external = Flag(required=False, allow_null=True)
    url = Text(required=False, allow_null=True)
    delivery_mode = Text(required=False, allow_null=True)
    workspace_dir = Text(required=False, allow_null=True)
    workspace_access = Text(required=False, allow_null=True)
    parent_id = Text(required=False, allow_null=True)
    budget_limit = Whole(required=False, allow_null=True)
    secrets = Secrets(required=False, allow_null=True)
    max_concurrent_tasks = Whole(required=False, allow_null=True)
    canvas = Place(required=False, allow_null=True)
    initial_memories = serializers.ListField(required=False, allow_null=True)


# A template's runtime and model, '' where it names none. Raises BadRequest for a name that is no template's.
ReadTemplate = Callable[[str], tuple[str, str]]


def new_workspace(given: dict[str, Any], read_template: ReadTemplate) -> NewWorkspace:
    """The request as the verb takes it. Raises BadRequest or Unprocessable in the texts of the API."""
    name = given["name"].strip()
    if not name:
        raise BadRequest(BAD_PAYLOAD)
    role = (given.get("role") or "").strip() or None
    model = (given.get("model") or "").strip() or None
    asked_runtime = "external" if given.get("external") else (given.get("runtime") or "").strip()
    _check_texts(name, role, model, asked_runtime)
    secrets = given.get("secrets") or {}
    for key, value in secrets.items():
        if wrong := secret_problem(key, value):
            raise BadRequest(wrong)
    tier = _tier(given.get("tier"))
    mode = _mode(given.get("delivery_mode"))
    folder = _folder(given.get("workspace_dir") or None)
    access = _access(given.get("workspace_access") or Access.NONE, folder)
    budget = given.get("budget_limit")
    if budget is not None and budget < 0:
        raise BadRequest("budget_limit must be >= 0 (USD cents)")
    asked_parent = given.get("parent_id")  # an empty text is no workspace
    parent_id = None if asked_parent is None else _parent(asked_parent or "none")
    template = (given.get("template") or "").strip() or None
    if template and not is_template_name(template):
        raise BadRequest("invalid template")
    of_template = read_template(template) if template else ("", "")
    runtime = _runtime(asked_runtime, template, of_template[0])
    x, y = given.get("canvas") or (0.0, 0.0)
    return NewWorkspace(
        name=name,
        runtime=runtime,
        role=role,
        template=template,
        tier=tier,
        model=model or of_template[1] or None,
        url=(given.get("url") or "").strip() if runtime == EXTERNAL else "",
        delivery_mode=mode,
        workspace_dir=folder,
        workspace_access=access,
        parent_id=parent_id,
        budget_limit=budget,
        max_concurrent_tasks=min(max(1, given.get("max_concurrent_tasks") or 1), MAX_TASKS),
        x=x,
        y=y,
        secrets=secrets,
        memories=[one for one in given.get("initial_memories") or [] if isinstance(one, Mapping)],
    )


def _check_texts(name: str, role: str | None, model: str | None, runtime: str) -> None:
    bad_line = any("\n" in text or "\r" in text or "\x00" in text for text in (model or "", runtime))
    too_long = len(model or "") > MODEL_CHARS or len(runtime) > MODEL_CHARS
    if problem(name, "name", NAME_CHARS) or problem(role or "", "role", ROLE_CHARS) or bad_line or too_long:
        raise BadRequest(BAD_FIELDS)


def _runtime(asked: str, template: str | None, of_template: str) -> str:
    if template and not asked and not of_template:
        raise Unprocessable(
            "could not resolve a runtime from the template", template=template, code="RUNTIME_UNRESOLVED"
        )
    return known_runtime(asked or of_template or default_runtime())


def known_runtime(name: str) -> str:
    """Raises Unprocessable: an unknown runtime is refused, never replaced."""
    runtime = name.replace("_", "-")
    if runtime not in known_runtimes():
        raise Unprocessable("unsupported workspace runtime", runtime=name, code="RUNTIME_UNSUPPORTED")
    return runtime


def _tier(given: int | None) -> int | None:
    if given and not 1 <= given <= 4:
        raise BadRequest("tier must be between 1 and 4")
    return given or None


def _mode(given: str | None) -> str | None:
    if given and given not in DeliveryMode.values:
        raise BadRequest("delivery_mode must be 'push' or 'poll'")
    return given or None


def _folder(given: str | None) -> str | None:
    if given and not is_usable_folder(given):
        raise BadRequest("invalid workspace directory")
    return given


def _access(given: str, folder: str | None) -> str:
    if given not in Access.values or (given != Access.NONE and not folder):
        raise BadRequest("invalid workspace access")
    return given


def _parent(given: str | None) -> UUID | None:
    if not given:
        return None
    try:
        return UUID(given)
    except ValueError:
        raise BadRequest("parent workspace not found") from None


class UpdateInput(serializers.Serializer[Any]):
    """`PATCH /workspaces/:id`: absent keys change nothing, unknown ones are ignored."""

    error_text = "invalid request body"
    name = Text(required=False)
    role = Text(required=False, allow_null=True)
    x = Finite(required=False)
    y = Finite(required=False)
    collapsed = Flag(required=False)
    tier = Whole(required=False)
    parent_id = Text(required=False, allow_null=True)
    runtime = Text(required=False)
    workspace_dir = Text(required=False, allow_null=True)
    workspace_access = Text(required=False)
    hibernation_idle_minutes = Whole(required=False, allow_null=True)


def workspace_changes(given: dict[str, Any]) -> dict[str, Any]:
    """The columns a PATCH changes. Raises BadRequest or Unprocessable in the texts of the API."""
    changes = dict(given)
    if "name" in changes:
        changes["name"] = changes["name"].strip()
        text = problem(changes["name"], "name", NAME_CHARS)
        if text or not changes["name"]:
            raise BadRequest(text or "name must not be blank")
    if "role" in changes:
        changes["role"] = (changes["role"] or "").strip() or None
        if text := problem(changes["role"] or "", "role", ROLE_CHARS):
            raise BadRequest(text)
    if ("x" in changes) != ("y" in changes):
        changes.pop("x", None)
        changes.pop("y", None)
    if "tier" in changes and not 1 <= changes["tier"] <= 4:
        raise BadRequest("tier must be between 1 and 4")
    if changes.get("parent_id") is not None:  # null un-nests; an empty text is no workspace
        changes["parent_id"] = _parent(changes["parent_id"] or "none")
    if "runtime" in changes:
        changes["runtime"] = known_runtime(changes["runtime"].strip())
    if "workspace_dir" in changes:
        changes["workspace_dir"] = _folder(changes["workspace_dir"] or None)
    if "workspace_access" in changes and changes["workspace_access"] not in Access.values:
        raise BadRequest("invalid workspace access")
    minutes = changes.get("hibernation_idle_minutes")
    if minutes is not None and not 0 <= minutes <= 10_080:
        raise BadRequest("hibernation_idle_minutes must be between 0 and 10080")
    return changes


# fmt: off
_LISTED = [
    "id", "name", "status", "runtime", "role", "workspace_dir", "parent_id", "tier", "active_tasks",
    "max_concurrent_tasks", "uptime_seconds", "monthly_spend", "last_error_rate", "agent_card",
    "budget_limit", "last_heartbeat_at", "delivery_mode",
]
# fmt: on
_HIDDEN_FROM_PUBLIC = (
    "budget_limit",
    "budget_used",
    "monthly_spend",
    "current_task",
    "last_sample_error",
    "workspace_dir",
)


def _text(column: str) -> Coalesce:
    """The column, empty where it is null: the canvas compares these with "" only."""
    return Coalesce(F(column), Value(""), output_field=TextField())


def listed(rows: QuerySet[Workspace]) -> list[dict[str, Any]]:
    """The rows of `GET /workspaces`: one statement, no model instance per row."""
    found = rows.annotate(
        x=Coalesce(F("layout__x"), Value(0.0), output_field=FloatField()),
        y=Coalesce(F("layout__y"), Value(0.0), output_field=FloatField()),
        collapsed=Coalesce(F("layout__collapsed"), Value(False)),
        url_text=_text("url"),
        task_text=_text("current_task"),
        error_text=_text("last_sample_error"),
    ).values(*_LISTED, "spend_month", "x", "y", "collapsed", "url_text", "task_text", "error_text")
    now, timeouts = timezone.now(), declared_timeouts()
    return [_renamed(row, now, timeouts) for row in found]


def _renamed(row: dict[str, Any], now: datetime, timeouts: Mapping[str, int]) -> dict[str, Any]:
    row["url"] = row.pop("url_text")
    row["current_task"] = row.pop("task_text")
    row["last_sample_error"] = row.pop("error_text")
    spent = effective_spend(row["monthly_spend"], row.pop("spend_month"), now=now)
    row["budget_used"] = row["monthly_spend"] = spent
    if seconds := timeouts.get(row["runtime"]):
        row["provision_timeout_ms"] = seconds * 1000
    return row


def public(workspace: Workspace) -> dict[str, Any]:
    """`GET /workspaces/:id`: the listed row without what only operators should read."""
    (row,) = listed(Workspace.objects.filter(pk=workspace.pk))
    for key in _HIDDEN_FROM_PUBLIC:
        del row[key]
    row["last_outbound_at"] = workspace.last_outbound_at
    return row
