"""Auth classes that need the tree. Source: docs/reference/registry.md, Who may call."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from access.authentication import principal_of, resolved
from access.credentials import RESERVED_CALLERS, Kind
from access.permissions import RoutedView, path_workspace, require_workspace
from config.errors import BadRequest, Forbidden, Unauthorized
from workspaces.registry_serializers import known_form
from workspaces.selectors import can_communicate


class PeerAccess(BasePermission):
    """Operators, and a workspace that may talk to the one in the path, or is it."""

    def has_permission(self, request: Request, view: RoutedView) -> bool:
        principal, target_id = principal_of(request), path_workspace(view)
        if principal.is_admin_class:
            require_workspace(principal, target_id)
            return True
        if principal.kind != Kind.WORKSPACE or principal.workspace_id is None:
            absent = principal.kind == Kind.ANONYMOUS
            raise Unauthorized("missing workspace auth token" if absent else "invalid workspace auth token")
        if not can_communicate(principal.workspace_id, target_id):
            raise Forbidden("access denied")
        return True


class DiscoveryAccess(BasePermission):
    """The caller is the workspace in `X-Workspace-ID`, proved by its token; operators may name any.

    The missing header is told before any credential is looked at, and a token of somebody else is a 401 here.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        claimed = request.META.get("HTTP_X_WORKSPACE_ID", "").strip()
        if not claimed:
            raise BadRequest("X-Workspace-ID header is required")
        view.caller_id = known_form(claimed)
        if claimed.lower().startswith(RESERVED_CALLERS):
            raise Forbidden("invalid caller ID")
        principal = resolved(request._request)
        if view.caller_id is not None:
            require_workspace(principal, view.caller_id)
        elif not principal.is_admin_class:
            absent = principal.kind == Kind.ANONYMOUS
            raise Unauthorized("missing workspace auth token" if absent else "invalid workspace auth token")
        return True
