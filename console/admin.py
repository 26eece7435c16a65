"""The operators' pages, one module each."""

from console.audit_admin import OperatorActionAdmin
from console.workspace_admin import WorkspaceAdmin

__all__ = ["OperatorActionAdmin", "WorkspaceAdmin"]
