"""Bodies the routes of delegations take, and rows as operators see them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from config.fields import Log, Whole
from delegations.models import Delegation, Status

TASK_BYTES = 1024 * 1024
KEY_CHARS = 255
ID_CHARS = 128
MIN_DEADLINE_S, MAX_DEADLINE_S = 60, 86_400
_NOT_AN_END = "status must be 'completed' or 'failed'"


class TaskText(Log):
    """What is to be done: some text, at most 1 MiB."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not text.strip() or len(text.encode(errors="replace")) > TASK_BYTES:
            raise serializers.ValidationError("must be text of at most 1 MiB")
        return text


class DelegateInput(serializers.Serializer[Any]):
    error_text = "invalid delegation request"
    target_id = Log()
    task = TaskText()
    idempotency_key = Log(required=False, allow_null=True)
    deadline_seconds = Whole(required=False, allow_null=True)

    def validate_idempotency_key(self, value: str | None) -> str | None:
        if value and len(value) > KEY_CHARS:
            raise serializers.ValidationError(self.error_text)
        return value

    def validate_deadline_seconds(self, value: int | None) -> int | None:
        if value is not None and not MIN_DEADLINE_S <= value <= MAX_DEADLINE_S:
            raise serializers.ValidationError(self.error_text)
        return value


class RecordInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    target_id = Log()
    task = TaskText()
    delegation_id = Log()

    def validate_delegation_id(self, value: str) -> str:
        if not 1 <= len(value) <= ID_CHARS or not value.isprintable():
            raise serializers.ValidationError(self.error_text)
        return value


class ReportInput(serializers.Serializer[Any]):
    error_text = _NOT_AN_END
    status = serializers.ChoiceField(["completed", "failed", "queued"])
    error = Log(required=False, allow_null=True)
    response_preview = Log(required=False, allow_null=True)


class ResolveInput(serializers.Serializer[Any]):
    action = serializers.ChoiceField(
        ["fail", "requeue"],
        error_messages=dict.fromkeys(
            ["required", "null", "invalid_choice"], "action must be 'fail' or 'requeue'"
        ),
    )
    reason = serializers.CharField(required=False, allow_blank=True, allow_null=True, max_length=500)


class AdminOutput(serializers.ModelSerializer[Delegation]):
    """A row as operators see it; what is not set is left out."""

    OPTIONAL = ("last_heartbeat", "result_preview", "error_detail")

    class Meta:
        model = Delegation
        fields = (
            "delegation_id",
            "caller_id",
            "callee_id",
            "task_preview",
            "status",
            "deadline",
            "retry_count",
            "created_at",
            "updated_at",
            "last_heartbeat",
            "result_preview",
            "error_detail",
        )

    def to_representation(self, instance: Delegation) -> dict[str, Any]:
        shown = super().to_representation(instance)
        return {key: value for key, value in shown.items() if value is not None or key not in self.OPTIONAL}


ENDS = {"completed": Status.COMPLETED, "failed": Status.FAILED}
