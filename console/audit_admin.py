"""The record of what operators did: to read."""

from __future__ import annotations

from django.contrib import admin

from config.admin import ReadOnlyAdmin
from console.models import OperatorAction


@admin.register(OperatorAction)
class OperatorActionAdmin(ReadOnlyAdmin[OperatorAction]):
    list_display = ("started_at", "actor", "verb", "object_name", "object_id", "reason", "outcome", "result")
    list_filter = ("outcome",)
    search_fields = ("actor", "=object_id", "reason")
    search_help_text = "part of a name or of a reason, or the whole id of what was acted on"
    ordering = ("-started_at",)
