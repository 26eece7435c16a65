"""Verbs over rows of the tree: create, change, move, remove. Source: docs/reference/workspaces.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from access.models import TokenKind
from access.services import mint_token, revoke_tokens, store_secrets
from access.url_policy import check_url
from activity.events import EventType, record
from config.errors import BadRequest, Conflict, Forbidden, Gone, NotFound
from config.locks import lock_in_transaction
from workspaces.cache import forget, remember_url
from workspaces.defaults import default_tier, is_saas
from workspaces.models import (
    EXTERNAL,
    NAME_UNIQUE,
    STATES,
    Access,
    CanvasLayout,
    DeliveryMode,
    Status,
    Workspace,
    WorkspaceConfig,
)
from workspaces.providers import provider_of
from workspaces.selectors import position, subtree
from workspaces.slugs import numbered

log = structlog.get_logger(__name__)

NAME_TRIES = 20
TREE_LOCK = (
    "workspaces:parents"  # one lock over all parent changes: two disjoint moves can form a cycle together
)


@dataclass(frozen=True)
class NewWorkspace:
    """What `POST /workspaces` asks for, validated."""

    name: str
    runtime: str
    role: str | None = None
    template: str | None = None
    tier: int | None = None
    model: str | None = None
    url: str = ""
    delivery_mode: str | None = None
    workspace_dir: str | None = None
    workspace_access: str = Access.NONE
    parent_id: UUID | None = None
    budget_limit: int | None = None
    max_concurrent_tasks: int = 1
    x: float = 0.0
    y: float = 0.0
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_external(self) -> bool:
        return self.runtime == EXTERNAL


@dataclass(frozen=True)
class Created:
    """The stored row and, for an external agent that is yet to come, its token in plain text."""

    workspace: Workspace
    auth_token: str = ""


def create_workspace(wanted: NewWorkspace) -> Created:
    """Insert a workspace with its layout, secrets and events, or nothing.

    A taken name is varied (`name (2)`); raises Conflict when twenty are taken, BadRequest for a missing
    parent or a
    forbidden url. Managed compute is started by the caller, once this has committed.
    """
    if wanted.is_external and wanted.url:
        check_url(wanted.url, is_saas=is_saas())
    with transaction.atomic():
        if wanted.parent_id and not Workspace.objects.live().filter(pk=wanted.parent_id).exists():
            raise BadRequest("parent workspace not found")
        row = _insert_with_free_name(_row(wanted))
        if (wanted.x, wanted.y) != (0.0, 0.0):
            CanvasLayout.objects.create(workspace=row, x=wanted.x, y=wanted.y)
        store_secrets(workspace_id=row.pk, values={**wanted.secrets, **model_secrets(wanted.model)})
        token = ""
        if row.status == Status.AWAITING_AGENT:
            token = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=row.generation)
        _announce_creation(row, wanted)
    if row.url:
        remember_url(row.pk, row.url)
    return Created(row, token)


def _row(wanted: NewWorkspace) -> Workspace:
    status = Status.PROVISIONING
    if wanted.is_external:
        status = Status.ONLINE if wanted.url else Status.AWAITING_AGENT
    default_mode = DeliveryMode.POLL if wanted.is_external and not wanted.url else DeliveryMode.PUSH
    new_id = uuid4()
    return Workspace(
        id=new_id,
        name=wanted.name,
        role=wanted.role,
        tier=wanted.tier or default_tier(),
        status=status,
        runtime=wanted.runtime,
        template=wanted.template,
        parent_id=wanted.parent_id,
        url=wanted.url if wanted.is_external else None,
        delivery_mode=wanted.delivery_mode or default_mode,
        delivery_mode_explicit=wanted.delivery_mode is not None,
        awareness_namespace=f"workspace:{new_id}",
        workspace_dir=wanted.workspace_dir,
        workspace_access=wanted.workspace_access,
        budget_limit=wanted.budget_limit,
        max_concurrent_tasks=wanted.max_concurrent_tasks,
        generation=0 if wanted.is_external else 1,
    )


def _insert_with_free_name(row: Workspace) -> Workspace:
    wanted = row.name
    for number in range(1, NAME_TRIES + 1):
        row.name = numbered(wanted, number)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
                return row
        except IntegrityError as error:
            if not is_name_taken(error):
                raise
    raise name_taken()


def is_name_taken(error: IntegrityError) -> bool:
    diagnosis = getattr(error.__cause__, "diag", None)
    return getattr(diagnosis, "constraint_name", None) == NAME_UNIQUE


def name_taken() -> Conflict:
    return Conflict("workspace name already in use", code="WORKSPACE_NAME_TAKEN")


def model_secrets(model: str | None) -> dict[str, str]:
    """The secrets that keep a chosen model over restarts; the provider when the model's prefix names one."""
    if not model:
        return {}
    provider = provider_of(model)
    return {"MODEL_PROVIDER": model, **({"LLM_PROVIDER": provider} if provider else {})}


def _announce_creation(row: Workspace, wanted: NewWorkspace) -> None:
    payload: dict[str, Any] = {"name": row.name, "tier": row.tier, "runtime": row.runtime}
    x, y = wanted.x, wanted.y
    if row.parent_id:
        payload["parent_id"] = str(row.parent_id)
        above_x, above_y = position(row.parent_id)
        x, y = x - above_x, y - above_y  # the canvas reads a child's coordinates relative to its parent
    if (wanted.x, wanted.y) != (0.0, 0.0):
        payload.update(x=x, y=y)
    record(EventType.WORKSPACE_PROVISIONING, row.pk, payload)
    if row.status == Status.ONLINE:
        record(EventType.WORKSPACE_ONLINE, row.pk, {"name": row.name, "external": True})
    elif row.status == Status.AWAITING_AGENT:
        record(EventType.WORKSPACE_AWAITING_AGENT, row.pk, {"name": row.name, "external": True})


def remember_config(row: Workspace) -> None:
    """What the Config tab shows of a workspace that never got compute."""
    data = {"name": row.name, "runtime": row.runtime, "tier": row.tier, "template": row.template}
    WorkspaceConfig.objects.update_or_create(pk=row.pk, defaults={"data": data, "updated_at": Now()})


INFRASTRUCTURE = frozenset(
    {"tier", "parent_id", "runtime", "workspace_dir", "workspace_access", "hibernation_idle_minutes"}
)
NEEDS_RESTART = frozenset({"workspace_dir", "runtime", "tier", "workspace_access", "parent_id"})


def update_workspace(
    *, workspace_id: UUID, changes: Mapping[str, Any], may_change_infrastructure: bool
) -> bool:
    """Apply the keys of a PATCH, all or none; returns whether a restart is needed for them to take effect.

    Raises Forbidden for infrastructure keys without an admin credential, NotFound, Gone, Conflict (name,
    cycle),
    BadRequest (parent).
    """
    guarded = sorted(INFRASTRUCTURE & set(changes))
    if guarded and not may_change_infrastructure:
        raise Forbidden(
            "workspace infrastructure fields require admin or verified control-plane authentication",
            code="WORKSPACE_INFRASTRUCTURE_AUTH_REQUIRED",
            fields=guarded,
        )
    with transaction.atomic():
        layout = {key: changes[key] for key in ("x", "y", "collapsed") if key in changes}
        columns = {key: value for key, value in changes.items() if key not in {"x", "y", "collapsed"}}
        if "parent_id" in columns:
            lock_in_transaction(TREE_LOCK)
        row = Workspace.objects.select_for_update().filter(pk=workspace_id).first()
        check_present(row)
        assert row is not None
        _check_access(row, columns)
        if layout:
            _place(workspace_id, layout)
        changed = {key: value for key, value in columns.items() if getattr(row, key) != value}
        if "parent_id" in changed:
            _check_new_parent(workspace_id, changed["parent_id"])
        if changed:
            _write(workspace_id, changed)
        if "parent_id" in changed:
            payload = {
                key: str(value) if value else None
                for key, value in {
                    "old_parent_id": row.parent_id,
                    "new_parent_id": changed["parent_id"],
                }.items()
            }
            record(EventType.WORKSPACE_MOVED, workspace_id, payload)
    return bool(NEEDS_RESTART & set(changed))


def check_present(row: Workspace | None) -> None:
    """Raises NotFound for an unknown, Gone for a removed workspace."""
    if row is None:
        raise NotFound("workspace not found")
    if row.status == Status.REMOVED:
        raise removed(row)


def removed(row: Workspace) -> Gone:
    return Gone(
        "workspace removed",
        id=str(row.pk),
        removed_at=row.status_changed_at,
        hint="Regenerate workspace + token from the canvas → Tokens tab",
    )


def _check_access(row: Workspace, columns: Mapping[str, Any]) -> None:
    access = columns.get("workspace_access", row.workspace_access)
    folder = columns.get("workspace_dir", row.workspace_dir)
    if access != Access.NONE and not folder:
        raise BadRequest("invalid workspace access")


def _write(workspace_id: UUID, changed: Mapping[str, Any]) -> None:
    try:
        with transaction.atomic():
            Workspace.objects.filter(pk=workspace_id).update(**changed, updated_at=Now())
    except IntegrityError as error:
        if is_name_taken(error):
            raise name_taken() from None
        raise


def _check_new_parent(workspace_id: UUID, parent_id: UUID | None) -> None:
    if parent_id is None:
        return
    if not Workspace.objects.live().filter(pk=parent_id).exists():
        raise BadRequest("parent workspace not found")
    if parent_id in subtree(workspace_id):
        raise Conflict("parent_id would create a cycle", code="WORKSPACE_PARENT_CYCLE")


_PLACE = """
INSERT INTO canvas_layouts (workspace_id, x, y, collapsed)
VALUES (%(id)s, coalesce(%(x)s, 0), coalesce(%(y)s, 0), coalesce(%(collapsed)s, false))
ON CONFLICT (workspace_id) DO UPDATE SET x = coalesce(%(x)s, canvas_layouts.x),
    y = coalesce(%(y)s, canvas_layouts.y), collapsed = coalesce(%(collapsed)s, canvas_layouts.collapsed)
"""


def _place(workspace_id: UUID, layout: Mapping[str, Any]) -> None:
    values = {"x": None, "y": None, "collapsed": None, **layout, "id": workspace_id}
    with connection.cursor() as cursor:
        cursor.execute(_PLACE, values)


@dataclass(frozen=True)
class Removal:
    """The rows a delete took, parents before children; `cascade` excludes the target."""

    ids: list[UUID]

    @property
    def cascade(self) -> int:
        return len(self.ids) - 1


def remove_workspace(*, workspace_id: UUID, confirmed: bool) -> Removal:
    """Mark the whole subtree removed, revoke its tokens and announce it, in one transaction.

    The rows go first: a late heartbeat, register or restart then finds nothing to revive. Stopping compute
    is owed
    (`cleanup_pending`) until the teardown confirms it. Raises NotFound, or Conflict naming the children
    when a parent
    is deleted without confirmation. A removed id answers with the members that still owe a stop.
    """
    with transaction.atomic():
        lock_in_transaction(TREE_LOCK)
        target = Workspace.objects.select_for_update().filter(pk=workspace_id).first()
        if target is None:
            raise NotFound("workspace not found")
        if target.status == Status.REMOVED:
            return Removal([workspace_id])
        ids = subtree(workspace_id)
        if len(ids) > 1 and not confirmed:
            raise _unconfirmed(workspace_id)
        list(Workspace.objects.select_for_update().filter(pk__in=ids).order_by("pk").values_list("pk"))
        gone = STATES.move(
            Workspace.objects.filter(pk__in=ids),
            Status.REMOVED,
            generation=F("generation") + 1,
            cleanup_pending=True,
            updated_at=Now(),
        )
        taken = {row.pk for row in gone}
        ids = [one for one in ids if one in taken]
        CanvasLayout.objects.filter(pk__in=ids).delete()
        for one in ids:
            revoke_tokens(workspace_id=one)
        for one in reversed(ids):
            payload = {"cascade_deleted": len(ids) - 1} if one == workspace_id else {}
            record(EventType.WORKSPACE_REMOVED, one, payload)
        transaction.on_commit(lambda: forget(*ids), robust=True)
    return Removal(ids)


def _unconfirmed(workspace_id: UUID) -> Conflict:
    children = list(
        Workspace.objects.live()
        .filter(parent_id=workspace_id)
        .order_by("created_at", "pk")
        .values("id", "name")
    )
    text = f"workspace has {len(children)} child workspace(s); repeat with ?confirm=true to delete them too"
    return Conflict(
        text, status="confirmation_required", message=text, children=children, children_count=len(children)
    )


_OWING = """
WITH RECURSIVE tree(id, depth) AS (
    SELECT id, 0 FROM workspaces WHERE id = %s
    UNION SELECT child.id, tree.depth + 1 FROM workspaces child JOIN tree ON child.parent_id = tree.id
    WHERE child.status = 'removed' AND tree.depth < 64)
SELECT w.id FROM workspaces w JOIN tree USING (id) WHERE w.status = 'removed' AND w.cleanup_pending
"""


def owing_stop(workspace_id: UUID) -> list[UUID]:
    """The removed members of a subtree whose compute has not been confirmed gone."""
    with connection.cursor() as cursor:
        cursor.execute(_OWING, [workspace_id])
        return [row[0] for row in cursor.fetchall()]
