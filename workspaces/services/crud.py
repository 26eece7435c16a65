"""Verbs over rows of the tree: create, change, move. Source: docs/reference/workspaces.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from access.models import TokenKind
from access.services import mint_token, store_secrets
from access.url_policy import check_url
from activity.events import EventType, record
from config.errors import BadRequest, Conflict, Forbidden, Gone, Internal, NotFound, failing_as
from config.locks import lock_in_transaction
from workspaces import hooks
from workspaces.cache import remember_url
from workspaces.defaults import default_tier, is_saas
from workspaces.models import (
    EXTERNAL,
    NAME_UNIQUE,
    Access,
    CanvasLayout,
    DeliveryMode,
    Status,
    Workspace,
    WorkspaceConfig,
)
from workspaces.providers import provider_of
from workspaces.selectors import MAX_DEPTH, chains, depths, position
from workspaces.services.moves import NOTHING, count_moves
from workspaces.services.presence import lock_live_ones
from workspaces.services.transitions import QUEUE_GRACE
from workspaces.slugs import numbered

log = structlog.get_logger(__name__)

NAME_TRIES = 20
# One lock over all parent changes: two disjoint moves can form a cycle together. A new child only shares it.
TREE_LOCK = "workspaces:parents"


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
    source_bundle_id: str | None = None
    memories: Sequence[Mapping[str, Any]] = ()

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
    parent or a forbidden url, Internal naming what could not be stored. Managed compute is started by the
    caller, once this has committed.
    """
    _check_parent(wanted.parent_id)
    if wanted.is_external and wanted.url:
        check_url(wanted.url, is_saas=is_saas())
    with failing_as("failed to create workspace"), transaction.atomic():
        if wanted.parent_id:
            lock_in_transaction(TREE_LOCK, is_shared=True)
            if not lock_live_ones(wanted.parent_id):
                raise _no_parent()  # removed since the check; from here on a delete waits for this child
            _check_depth(len(chains([wanted.parent_id])[wanted.parent_id]) + 1)
        row = _insert_with_free_name(new_row(wanted))
        count_moves([NOTHING], row.status, "create")
        if (wanted.x, wanted.y) != (0.0, 0.0):
            CanvasLayout.objects.create(workspace=row, x=wanted.x, y=wanted.y)
        _keep_secrets(row.pk, {**wanted.secrets, **model_secrets(wanted.model)})
        token = _first_token(row) if row.status == Status.AWAITING_AGENT else ""
        if wanted.memories:
            for hook in hooks.born:
                hook(row, wanted.memories)
        _announce_creation(row, wanted)
    if row.url:
        remember_url(row.pk, row.url)
    return Created(row, token)


def _check_parent(parent_id: UUID | None) -> None:
    if parent_id and not Workspace.objects.live().filter(pk=parent_id).exists():
        raise _no_parent()


def _no_parent() -> BadRequest:
    return BadRequest("parent workspace not found")


def _keep_secrets(workspace_id: UUID, values: Mapping[str, str]) -> None:
    """Store the secrets one by one, so that the answer names the one that failed. Raises Internal."""
    for key, value in values.items():
        with failing_as(f"failed to save secret: {key}"):
            try:
                store_secrets(workspace_id=workspace_id, values={key: value})
            except DatabaseError:
                raise
            except Exception as error:  # whatever keeps the cipher from working
                log.exception("secret.not_sealed", workspace_id=str(workspace_id), key=key)
                raise Internal(f"failed to encrypt secret: {key}") from error


def _first_token(row: Workspace) -> str:
    """The token of an external agent; empty when it cannot be minted, since rotating can still give one."""
    try:
        with transaction.atomic():
            return mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=row.generation)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        hint = f"POST /workspaces/{row.pk}/external/rotate mints a token"
        log.exception("external.token_not_minted", workspace_id=str(row.pk), hint=hint)
        return ""


def new_row(wanted: NewWorkspace) -> Workspace:
    """The row to insert, its final status already set."""
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
        source_bundle_id=wanted.source_bundle_id,
        generation=0 if wanted.is_external else 1,
        provision_deadline_at=None if wanted.is_external else timezone.now() + QUEUE_GRACE,
    )


def _insert_with_free_name(row: Workspace) -> Workspace:
    # class1-gate: idempotent-by-design
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
    if wanted.source_bundle_id:
        payload["source_bundle_id"] = wanted.source_bundle_id
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

    Raises Forbidden for infrastructure keys without an admin credential, NotFound, Gone, BadRequest (parent),
    Conflict (name, cycle, depth, runtime).
    """
    guarded = sorted(INFRASTRUCTURE & set(changes))
    if guarded and not may_change_infrastructure:
        raise Forbidden(
            "workspace infrastructure fields require admin or verified control-plane authentication",
            code="WORKSPACE_INFRASTRUCTURE_AUTH_REQUIRED",
            fields=guarded,
        )
    with failing_as("update failed"), transaction.atomic():
        layout = {key: changes[key] for key in ("x", "y", "collapsed") if key in changes}
        columns = {key: value for key, value in changes.items() if key not in {"x", "y", "collapsed"}}
        if "parent_id" in columns:
            lock_in_transaction(TREE_LOCK)
        row = Workspace.objects.select_for_update().filter(pk=workspace_id).first()
        check_present(row)
        assert row is not None
        _check_access(row, columns)
        _check_runtime(row, columns)
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
    _check_parent(parent_id)
    if parent_id is None:
        return
    above = [link.id for link in chains([parent_id])[parent_id]]
    if workspace_id in above:
        raise Conflict("parent_id would create a cycle", code="WORKSPACE_PARENT_CYCLE")
    _check_depth(len(above) + 1 + max(depths(workspace_id).values()))


def _check_depth(levels: int) -> None:
    if levels > MAX_DEPTH:
        raise tree_too_deep()


def tree_too_deep() -> Conflict:
    return Conflict(f"the tree would be deeper than {MAX_DEPTH} levels", code="WORKSPACE_TREE_TOO_DEEP")


def _check_runtime(row: Workspace, columns: Mapping[str, Any]) -> None:
    """Compute of ours does not become somebody else's, nor the reverse: what runs would be left behind."""
    if (columns.get("runtime", row.runtime) == EXTERNAL) == row.is_managed:
        text = "a workspace cannot change between managed and external; create a new one"
        raise Conflict(text, code="WORKSPACE_RUNTIME_FIXED")


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
