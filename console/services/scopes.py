"""Which orgs somebody at the console may see.

Source: docs/reference/console.md, Roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.http import HttpRequest

from console.models import OrgScope

_KNOWN = "_console_roots"  # on the request: asked once for a page


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
