"""Which plugins the workspaces of an org may be given. The org is the root of their tree.

Source: docs/reference/templates.md, Plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from django.db import DatabaseError, InterfaceError, transaction

from config.errors import BadRequest, Forbidden, NotFound, Unavailable
from templates.models import AllowedPlugin
from workspaces.models import Workspace
from workspaces.selectors import chains

NOT_ALLOWED = "plugin is not on the org's allowlist"


def allowed_plugins(org_id: UUID) -> list[AllowedPlugin]:
    """By name; empty: all are allowed. Raises NotFound for what is no living root."""
    if not Workspace.objects.live().filter(pk=org_id, parent=None).exists():
        raise NotFound("org not found")
    return list(AllowedPlugin.objects.filter(org_id=org_id).order_by("plugin_name"))


@transaction.atomic
def replace_allowlist(*, org_id: UUID, names: Sequence[str], enabled_by: str) -> list[str]:
    """Allow these plugins and no others; none: all. Of two callers the later one's list stands, whole.

    Returns the names. Raises BadRequest, NotFound.
    """
    for name in names:
        _check_name(name)
    wanted = sorted(set(names))
    org = Workspace.objects.live().select_for_update(no_key=True).filter(pk=org_id, parent=None)
    if org.first() is None:
        raise NotFound("org not found")
    AllowedPlugin.objects.filter(org_id=org_id).exclude(plugin_name__in=wanted).delete()
    AllowedPlugin.objects.bulk_create(
        [AllowedPlugin(org_id=org_id, plugin_name=name, enabled_by=enabled_by) for name in wanted],
        ignore_conflicts=True,
    )
    return wanted


def check_allowed(workspace_id: UUID, name: str) -> None:
    """Raises Forbidden; Unavailable when it cannot be told: that is never a yes."""
    try:
        chain = chains([workspace_id]).get(workspace_id, [])
        found = allowlists([chain[-1].id]) if chain else {}
    except (DatabaseError, InterfaceError):
        raise Unavailable("the org's plugin allowlist cannot be verified now; try again") from None
    if any(name not in names for names in found.values()):
        raise Forbidden(NOT_ALLOWED)


def allowlists(org_ids: Iterable[UUID]) -> dict[UUID, set[str]]:
    """What each org allows; one that allows all is absent."""
    found: dict[UUID, set[str]] = {}
    rows = AllowedPlugin.objects.filter(org_id__in=list(org_ids))
    for org_id, name in rows.values_list("org_id", "plugin_name"):
        found.setdefault(org_id, set()).add(name)
    return found


def _check_name(name: str) -> None:
    if not name.strip():
        detail = "a plugin's name is not empty"
    elif any(part in name for part in ("/", "\\", "..")):
        detail = "a plugin's name holds no path"
    else:
        return
    raise BadRequest("invalid plugin name", plugin_name=name, detail=detail)
