"""The auth classes of routes. Each raises its own 401: clients branch on the status, people read the text.

Source: docs/reference/access.md, Auth classes.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from access.authentication import principal_of
from access.credentials import Kind, Principal, hatch_is_open
from config.errors import Unauthorized
from config.http import read_as, workspace_uuid


class RoutedView(Protocol):
    kwargs: dict[str, Any]


class Public(BasePermission):
    """Everyone; no credential is looked at."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return True


class AdminAccess(BasePermission):
    """Operators only. Inside the hatch a valid workspace token passes too: it would pass with no token at
    all.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        require_admin(principal_of(request))
        return True


class WorkspaceAccess(BasePermission):
    """Operators, and the token of exactly the workspace in the path."""

    def has_permission(self, request: Request, view: RoutedView) -> bool:
        require_workspace(principal_of(request), path_workspace(view))
        return True


class WorkspaceOwn(BasePermission):
    """Only the token of exactly the workspace in the path."""

    def has_permission(self, request: Request, view: RoutedView) -> bool:
        require_own(principal_of(request), path_workspace(view))
        return True


def by_method(**classes: type[BasePermission]) -> type[BasePermission]:
    """One auth class per HTTP method of a route; a method without one is an operator's."""

    class ByMethod(BasePermission):
        per_method = classes

        def has_permission(self, request: Request, view: Any) -> bool:
            chosen = classes.get(read_as(request.method), AdminAccess)
            return chosen().has_permission(request, view)

    return ByMethod


def require_admin(principal: Principal) -> None:
    """Raises Unauthorized."""
    if principal.is_admin_class or (principal.kind == Kind.WORKSPACE and hatch_is_open()):
        return
    raise Unauthorized(
        "admin auth required" if principal.kind == Kind.ANONYMOUS else "invalid admin auth token"
    )


def require_workspace(principal: Principal, workspace_id: UUID) -> None:
    """Raises Unauthorized."""
    if principal.is_admin_class:
        return
    require_own(principal, workspace_id)


def require_own(principal: Principal, workspace_id: UUID) -> None:
    """Raises Unauthorized."""
    if principal.kind == Kind.WORKSPACE and principal.workspace_id == workspace_id:
        return
    absent = principal.kind in {Kind.ANONYMOUS, Kind.DEV_OPEN}
    raise Unauthorized("missing workspace auth token" if absent else "invalid workspace auth token")


def path_workspace(view: RoutedView) -> UUID:
    """The workspace id of the route. Raises BadRequest before anything is looked up."""
    return workspace_uuid(str(view.kwargs["workspace_id"]))
