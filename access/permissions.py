"""The auth classes of routes. Each raises its own 401: clients branch on the status, people read the text.

Source: docs/reference/access.md, Auth classes.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from access.anchoring import is_same_org
from access.authentication import principal_of
from access.credentials import Kind, Principal
from access.same_origin import is_same_origin_canvas
from config.errors import Forbidden, Unauthorized
from config.http import read_as, workspace_uuid


class RoutedView(Protocol):
    kwargs: dict[str, Any]


class Public(BasePermission):
    """Everyone; no credential is looked at."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return True


class AdminAccess(BasePermission):
    """Operators only. Inside the hatch a valid workspace token passes too: it would pass with no token at
    all. On a route that names a workspace an org token must belong to its org.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        principal = principal_of(request)
        require_admin(principal)
        if "workspace_id" in view.kwargs:
            require_org_of(principal, path_workspace(view))
        return True


class OrgAccess(BasePermission):
    """Operators; of the org tokens only those bound to the org in the path (`/orgs/:id/…`)."""

    def has_permission(self, request: Request, view: RoutedView) -> bool:
        principal = principal_of(request)
        require_admin(principal)
        if principal.kind == Kind.ORG:
            org_id = workspace_uuid(str(view.kwargs["org_id"]))
            if principal.org_id is None or not is_same_org(org_id, principal.org_id):
                raise Forbidden("org access denied")
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


class CanvasOrBearer(BasePermission):
    """Any valid credential; without a bearer also the canvas served behind this address.

    The latter can be forged, so the class is for one cosmetic route: nothing that reads data or runs agents.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        principal = principal_of(request)
        if principal.kind == Kind.INVALID:
            raise Unauthorized("invalid admin auth token")
        if principal.kind == Kind.ANONYMOUS and not is_same_origin_canvas(request._request.META):
            raise Unauthorized("admin auth required")
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
    if principal.is_admin_class or (principal.kind == Kind.WORKSPACE and principal.in_hatch):
        return
    raise Unauthorized(
        "admin auth required" if principal.kind == Kind.ANONYMOUS else "invalid admin auth token"
    )


def require_workspace(principal: Principal, workspace_id: UUID) -> None:
    """Raises Unauthorized, or Forbidden for an org token of another org."""
    if principal.is_admin_class:
        require_org_of(principal, workspace_id)
        return
    require_own(principal, workspace_id)


def require_org_of(principal: Principal, workspace_id: UUID) -> None:
    """A token that is bound to an org opens the workspaces of that org only. Raises Forbidden."""
    if principal.org_id is not None and not is_same_org(workspace_id, principal.org_id):
        raise Forbidden("org token not authorized for this workspace's org")


def require_place_in_org(principal: Principal, parent_id: UUID | None) -> None:
    """A token that is bound to an org moves workspaces within it only: not out of it, not to the top.

    Raises Forbidden."""
    if principal.org_id is not None and (parent_id is None or not is_same_org(parent_id, principal.org_id)):
        raise Forbidden("org token not authorized for this workspace's org")


def require_own(principal: Principal, workspace_id: UUID) -> None:
    """Raises Unauthorized."""
    if principal.kind == Kind.WORKSPACE and principal.workspace_id == workspace_id:
        return
    absent = principal.kind in {Kind.ANONYMOUS, Kind.DEV_OPEN}
    raise Unauthorized("missing workspace auth token" if absent else "invalid workspace auth token")


def path_workspace(view: RoutedView) -> UUID:
    """The workspace id of the route. Raises BadRequest before anything is looked up."""
    return workspace_uuid(str(view.kwargs["workspace_id"]))
