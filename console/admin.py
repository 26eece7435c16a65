"""The operators' pages, one module each."""

from console.audit_admin import OperatorActionAdmin
from console.delegation_admin import DelegationAdmin
from console.workspace_admin import WorkspaceAdmin

__all__ = ["DelegationAdmin", "OperatorActionAdmin", "WorkspaceAdmin"]
