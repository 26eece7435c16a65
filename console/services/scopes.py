"""Which orgs somebody at the console may see.

Source: docs/reference/console.md, Roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db.models.expressions import RawSQL
from django.http import HttpRequest

from console.models import OrgScope

_KNOWN = "_console_roots"  # on the request: asked once for a page


_BELOW = """
WITH RECURSIVE org AS (
    SELECT id FROM workspaces WHERE id = ANY(%s::uuid[])
    UNION SELECT below.id FROM workspaces below JOIN org ON below.parent_id = org.id
) SELECT id FROM org
"""


def workspaces_of(request: HttpRequest) -> RawSQL | None:
    """The ids of what is at and below `roots`, removed ones too, as a part of a query; None: everything."""
    found = roots(request)
    return None if found is None else RawSQL(_BELOW, [list(found)])  # noqa: S611 - the ids are a parameter


def roots(request: HttpRequest) -> Sequence[UUID] | None:
    """The workspaces of this person's groups below which they may see; None: everywhere.

    One group with a scope is enough to be confined to it, whatever the others are; a superuser never is.
    """
    if not hasattr(request, _KNOWN):
        setattr(request, _KNOWN, _asked(request))
    found: Sequence[UUID] | None = getattr(request, _KNOWN)
    return found


def _asked(request: HttpRequest) -> list[UUID] | None:
    if request.user.is_superuser or not request.user.is_authenticated:
        return None
    return list(OrgScope.objects.filter(group__user=request.user).values_list("root_id", flat=True)) or None
