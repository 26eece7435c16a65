"""The store in this database, without a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memory_store import services as store
from memory_store.contract import Code, Memory, Page, Search, StoreError, Write, kind_of, uuid_or_none


class LocalBackend:
    """See Backend. Errors of the database pass through: the server answers them as it does its own."""

    is_resting = False

    def capabilities(self) -> frozenset[str]:
        return frozenset(store.capabilities())

    def ask(self) -> frozenset[str]:
        return self.capabilities()

    def put_namespace(self, name: str) -> None:
        store.put_namespace(name, kind_of(name))

    def delete_namespace(self, name: str) -> None:
        store.delete_namespace(name)

    def commit(self, namespace: str, write: Write) -> str:
        return str(store.commit(namespace, write))

    def search(self, wanted: Search) -> list[Memory]:
        return store.search(wanted)

    def forget(self, memory_id: str, namespace: str) -> None:
        store.forget(_known(memory_id), namespace)

    def update(self, memory_id: str, namespace: str, changes: Mapping[str, Any]) -> Memory:
        return store.update(_known(memory_id), namespace, changes)

    def get(self, memory_id: str, namespace: str) -> Memory:
        return store.get(_known(memory_id), namespace)

    def list_namespaces(self, prefix: str = "", cursor: str | None = None) -> Page:
        return store.list_namespaces(prefix, cursor)

    def list_records(self, namespace: str, cursor: str | None = None) -> Page:
        return store.list_records(namespace, cursor)


def _known(memory_id: str) -> str:
    """The ids of this store are UUIDs: there is no record of another one."""
    if uuid_or_none(memory_id) is None:
        raise StoreError(Code.NOT_FOUND, "memory not found")
    return memory_id
