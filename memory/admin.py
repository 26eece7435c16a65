"""Operators' view of what is remembered: read-only, the beginning of each text and no values."""

from __future__ import annotations

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from memory.models import AgentMemory, KeyValue, OutboxEntry
from memory_store.models import MemoryNamespace, MemoryRecord

PREVIEW_CHARS = 120


def preview(content: str) -> str:
    return content if len(content) <= PREVIEW_CHARS else f"{content[:PREVIEW_CHARS]}…"


@admin.register(AgentMemory)
class AgentMemoryAdmin(ReadOnlyAdmin[AgentMemory]):
    of_workspace = ("workspace_id",)
    list_display = ("beginning", "workspace", "scope", "namespace", "created_at")
    list_filter = ("scope",)
    list_select_related = ("workspace",)
    search_fields = ("workspace__name",)
    search_help_text = "part of the author's name"
    ordering = ("-created_at",)
    fields = ("beginning", "workspace", ("scope", "namespace"), ("created_at", "updated_at"))

    @admin.display(description="content")
    def beginning(self, row: AgentMemory) -> str:
        return preview(row.content)


@admin.register(MemoryRecord)
class MemoryRecordAdmin(ReadOnlyAdmin[MemoryRecord]):
    list_display = ("beginning", "namespace_id", "kind", "source", "pin", "expires_at", "created_at")
    list_filter = ("kind", "source")
    search_fields = ("=namespace__name",)
    search_help_text = "the whole name of a namespace, such as team:…"
    ordering = ("-created_at",)
    fields = (
        "beginning",
        "namespace_id",
        ("kind", "source"),
        ("pin", "expires_at"),
        ("created_at", "updated_at"),
    )

    @admin.display(description="content")
    def beginning(self, row: MemoryRecord) -> str:
        return preview(row.content)


@admin.register(MemoryNamespace)
class MemoryNamespaceAdmin(ReadOnlyAdmin[MemoryNamespace]):
    list_display = ("name", "kind", "expires_at", "created_at")
    list_filter = ("kind",)
    search_fields = ("name",)
    ordering = ("name",)


@admin.register(KeyValue)
class KeyValueAdmin(ReadOnlyAdmin[KeyValue]):
    of_workspace = ("workspace_id",)
    list_display = ("key", "workspace", "version", "expires_at", "updated_at")
    list_select_related = ("workspace",)
    search_fields = ("key", "workspace__name")
    ordering = ("-updated_at",)
    exclude = ("value",)


@admin.register(OutboxEntry)
class OutboxEntryAdmin(ReadOnlyAdmin[OutboxEntry]):
    """What the store of records is owed: old entries with many attempts say that it is away."""

    list_display = ("op", "namespace", "attempts", "next_attempt_at", "last_error", "created_at")
    list_filter = ("op",)
    search_fields = ("namespace",)
    ordering = ("next_attempt_at",)
    exclude = ("payload",)
