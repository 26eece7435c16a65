"""Shapes of the channel routes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from chat_channels.adapters import ADAPTERS
from chat_channels.models import Channel
from chat_channels.sealing import masked_config
from config.fields import Flag, JSONValue, Text, Whole

MAX_BUDGET = 2**31 - 1
_NO_TYPE: dict[str, Any] = dict.fromkeys(["required", "null"], "channel_type is required")
_NO_TEXT: dict[str, Any] = dict.fromkeys(["required", "null"], "text is required")


@extend_schema_field({"type": "object", "additionalProperties": True})
class Object(JSONValue):
    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("must be an object")
        return data


@extend_schema_field({"type": "array", "items": {"type": "string"}})
class Users(JSONValue):
    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list):
            raise serializers.ValidationError("must be a list")
        return data


@extend_schema_field({"type": "integer", "nullable": True})
class Budget(Whole):
    def to_internal_value(self, data: Any) -> int:
        number = super().to_internal_value(data)
        if not 0 <= number <= MAX_BUDGET:
            raise serializers.ValidationError("must be a number of messages, or null")
        return number


class ChannelChanges(serializers.Serializer[Any]):
    config = Object(required=False)
    allowed_users = Users(required=False, allow_null=True)
    enabled = Flag(required=False)
    channel_budget = Budget(required=False, allow_null=True)

    def validate_allowed_users(self, given: list[Any] | None) -> list[Any]:
        return given or []


class ChannelInput(ChannelChanges):
    channel_type = Text(error_messages=_NO_TYPE)
    config = Object()


class ChannelSendInput(serializers.Serializer[Any]):
    text = Text(error_messages=_NO_TEXT)


class ChannelTestInput(serializers.Serializer[Any]):
    text = Text(required=False, allow_null=True)


class DiscoverInput(serializers.Serializer[Any]):
    """One client says `type` for `channel_type` and puts the token into `config`."""

    channel_type = Text(required=False, allow_null=True)
    type = Text(required=False, allow_null=True)
    bot_token = Text(required=False, allow_null=True)
    config = Object(required=False, allow_null=True)
    workspace_id = Text(required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        config = attrs.get("config") or {}
        found = {
            "channel_type": attrs.get("channel_type") or attrs.get("type"),
            "bot_token": attrs.get("bot_token") or config.get("bot_token"),
            "workspace_id": attrs.get("workspace_id") or config.get("workspace_id"),
        }
        for name in ("workspace_id", "channel_type", "bot_token"):
            value = found[name]
            if not isinstance(value, str) or not value.strip():
                raise serializers.ValidationError(f"{name} is required")
            found[name] = value.strip()
        return found


class ChannelOutput(serializers.ModelSerializer[Channel]):
    config = serializers.SerializerMethodField()

    class Meta:
        model = Channel
        fields = (
            "id",
            "workspace_id",
            "channel_type",
            "config",
            "enabled",
            "allowed_users",
            "last_message_at",
            "message_count",
            "channel_budget",
            "created_at",
            "updated_at",
        )

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
    def get_config(self, row: Channel) -> dict[str, str]:
        """What is sensitive is a mask."""
        return masked_config(row.channel_config, ADAPTERS[row.channel_type].sensitive)
