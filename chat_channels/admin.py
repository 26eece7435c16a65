"""Operators' view of the channels: read-only, never a configuration and never what was said."""

from __future__ import annotations

from django.contrib import admin

from chat_channels.models import Channel, ChannelMessage
from config.admin import ReadOnlyAdmin


@admin.register(Channel)
class ChannelAdmin(ReadOnlyAdmin[Channel]):
    of_workspace = ("workspace_id",)
    list_display = (
        "workspace",
        "channel_type",
        "enabled",
        "message_count",
        "channel_budget",
        "last_message_at",
        "updated_at",
    )
    list_filter = ("channel_type", "enabled")
    list_select_related = ("workspace",)
    search_fields = ("workspace__name",)
    search_help_text = "part of the workspace's name"
    ordering = ("-updated_at",)
    exclude = ("channel_config", "allowed_users")


@admin.register(ChannelMessage)
class ChannelMessageAdmin(ReadOnlyAdmin[ChannelMessage]):
    of_workspace = ("channel__workspace_id",)
    list_display = ("created_at", "workspace", "channel_type", "direction", "status", "attempts", "error")
    list_filter = ("status", "direction", "channel__channel_type")
    list_select_related = ("channel__workspace",)
    search_fields = ("channel__workspace__name",)
    search_help_text = "part of the workspace's name"
    ordering = ("-created_at",)
    fields = (
        "channel",
        "direction",
        "status",
        "status_changed_at",
        "attempts",
        "lease_expires_at",
        "error",
        "created_at",
    )

    @admin.display(description="workspace")
    def workspace(self, row: ChannelMessage) -> str:
        return str(row.channel.workspace)

    @admin.display(description="type")
    def channel_type(self, row: ChannelMessage) -> str:
        return row.channel.channel_type
