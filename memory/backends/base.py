"""What a store of records can be asked. Source: docs/reference/memory.md, Stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from memory_store.contract import Memory, Page, Search, Write


class Backend(Protocol):
    """Every call raises StoreError for what is refused or could not be done.

    `list_namespaces`, `list_records` and `update` are for those that name `list` and `update` among their
    capabilities.
    """

    @property
    def is_resting(self) -> bool:
        """It has failed, and is left alone for a while."""

    def capabilities(self) -> frozenset[str]:
        """What the store says it can do; empty while it cannot be asked."""

    def ask(self) -> frozenset[str]:
        """The same, asked now."""

    def put_namespace(self, name: str) -> None:
        """Create it, of the kind its name says, or leave it as it is."""

    def delete_namespace(self, name: str) -> None:
        """With all its records; a missing one is an error of code NOT_FOUND."""

    def commit(self, namespace: str, write: Write) -> str:
        """Store a record; its id. NOT_FOUND: there is no such namespace."""

    def search(self, wanted: Search) -> list[Memory]:
        """The best first."""

    def forget(self, memory_id: str, namespace: str) -> None:
        """NOT_FOUND: not in this namespace."""

    def update(self, memory_id: str, namespace: str, changes: Mapping[str, Any]) -> Memory:
        """NOT_FOUND: not in this namespace."""

    def get(self, memory_id: str, namespace: str) -> Memory:
        """NOT_FOUND: not in this namespace."""

    def list_namespaces(self, prefix: str = "", cursor: str | None = None) -> Page:
        """One page of namespaces."""

    def list_records(self, namespace: str, cursor: str | None = None) -> Page:
        """One page of the live records of a namespace."""
