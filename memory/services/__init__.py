"""Verbs over what workspaces remember. Source: docs/reference/memory.md."""

from memory.services.key_values import Wish, delete, forget_expired, keys_by_workspace, put

__all__ = ["Wish", "delete", "forget_expired", "keys_by_workspace", "put"]
