"""Verbs over what workspaces remember. Source: docs/reference/memory.md."""

from memory.services.holdings import holdings
from memory.services.key_values import Wish, delete, forget_expired, put

__all__ = ["Wish", "delete", "forget_expired", "holdings", "put"]
