"""Bodies the activity routes take."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

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


class ActivityInput(serializers.Serializer[Any]):
    activity_type = serializers.ChoiceField(
        AGENT_TYPES,
        error_messages={
            "required": "activity_type is required",
            "null": "activity_type is required",
            "invalid_choice": _INVALID_TYPE,
        },
    )
    method = serializers.CharField(required=False, allow_null=True, allow_blank=True, trim_whitespace=False)
    summary = serializers.CharField(required=False, allow_null=True, allow_blank=True, trim_whitespace=False)
    target_id = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    source_id = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    status = serializers.CharField(required=False, allow_null=True, allow_blank=True)
    error_detail = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, trim_whitespace=False
    )
    duration_ms = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=2_147_483_647
    )
    request_body = serializers.JSONField(required=False, allow_null=True)
    response_body = serializers.JSONField(required=False, allow_null=True)
    metadata = serializers.JSONField(required=False, allow_null=True)


class AckInput(serializers.Serializer[Any]):
    error_text = "acked_seq must be an integer >= 0"
    acked_seq = serializers.IntegerField(min_value=0, max_value=9_223_372_036_854_775_807)


class NotifyInput(serializers.Serializer[Any]):
    error_text = "message is required"
    message = serializers.CharField(trim_whitespace=False)
    attachments = serializers.ListField(child=serializers.JSONField(), required=False, allow_null=True)
