"""Bodies the activity routes take."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from config.fields import Whole

AGENT_TYPES = [
    "a2a_send",
    "a2a_receive",
    "task_update",
    "agent_log",
    "skill_promotion",
    "memory_write",
    "error",
]
_INVALID_TYPE = f"invalid activity_type, must be one of: {', '.join(AGENT_TYPES)}"


class Text(serializers.CharField):
    """Text as an agent sends it: what the database cannot store is replaced by the writer, never refused."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)
        self.validators = []


class ActivityInput(serializers.Serializer[Any]):
    activity_type = serializers.ChoiceField(
        AGENT_TYPES,
        error_messages={
            "required": "activity_type is required",
            "null": "activity_type is required",
            "invalid_choice": _INVALID_TYPE,
        },
    )

    method = Text(required=False, allow_null=True, allow_blank=True)
    summary = Text(required=False, allow_null=True, allow_blank=True)
    target_id = Text(required=False, allow_null=True, allow_blank=True)
    source_id = Text(required=False, allow_null=True, allow_blank=True)
    status = Text(required=False, allow_null=True, allow_blank=True)
    error_detail = Text(required=False, allow_null=True, allow_blank=True)
    duration_ms = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=2_147_483_647
    )
    request_body = serializers.JSONField(required=False, allow_null=True)
    response_body = serializers.JSONField(required=False, allow_null=True)
    metadata = serializers.JSONField(required=False, allow_null=True)

    def to_internal_value(self, data: Any) -> Any:
        if data.get("activity_type") == "":  # a choice field calls it unknown
            data = {**data, "activity_type": None}
        return super().to_internal_value(data)


class AckInput(serializers.Serializer[Any]):
    error_text = "acked_seq must be an integer >= 0"
    acked_seq = Whole()

    def validate_acked_seq(self, value: int) -> int:
        if value < 0:
            raise serializers.ValidationError(self.error_text)
        return value


class NotifyInput(serializers.Serializer[Any]):
    message = Text(
        error_messages=dict.fromkeys(["required", "null", "blank", "invalid"], "message is required")
    )
    attachments = serializers.ListField(
        child=serializers.JSONField(allow_null=True),
        required=False,
        allow_null=True,
        error_messages={"not_a_list": "attachments must be a list"},
    )
