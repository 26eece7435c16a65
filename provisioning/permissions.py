"""The auth class of machines that boot. Source: docs/reference/ec2.md, Boot."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from access.credentials import bearers
from config.errors import Unauthorized
from provisioning.services.boot_bundles import opened


class BootAccess(BasePermission):
    """The boot token of exactly one start; whoever else the caller is does not matter. Sets `view.bundle`."""

    def has_permission(self, request: Request, view: Any) -> bool:
        presented = bearers(request.META.get("HTTP_AUTHORIZATION"))
        if len(set(presented)) != 1:
            raise Unauthorized("missing boot token" if not presented else "invalid boot token")
        view.bundle = opened(presented[0])
        return True
