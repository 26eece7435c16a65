"""The operators' pages, one module each."""

from console.audit_admin import OperatorActionAdmin

__all__ = ["OperatorActionAdmin"]
