"""The operators' pages, one module each."""

from console.approval_admin import ApprovalAdmin
from console.audit_admin import OperatorActionAdmin
from console.delegation_admin import DelegationAdmin
from console.login_admin import LoginAdmin, RoleAdmin
from console.workspace_admin import WorkspaceAdmin

__all__ = [
    "ApprovalAdmin",
    "DelegationAdmin",
    "LoginAdmin",
    "OperatorActionAdmin",
    "RoleAdmin",
    "WorkspaceAdmin",
]
