"""Shapes of the approval routes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from approvals.models import Approval, Status

MAX_ACTION_CHARS = 10_000
_NO_DECISION = "decision must be 'approved' or 'denied'"
_DECISION: dict[str, Any] = dict.fromkeys(["required", "null", "invalid_choice"], _NO_DECISION)


class RequestInput(serializers.Serializer[Any]):
    action = serializers.CharField(
        max_length=MAX_ACTION_CHARS,
        error_messages=dict.fromkeys(["required", "null", "blank", "invalid"], "action is required"),
    )
    reason = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=MAX_ACTION_CHARS
    )
    task_id = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=500)
    context = serializers.JSONField(required=False, allow_null=True)  # type: ignore[assignment]

    def validate_context(self, given: Any) -> Any:
        if given is not None and not isinstance(given, dict):
            raise serializers.ValidationError("context must be an object")
        return given


class DecisionInput(serializers.Serializer[Any]):
    decision = serializers.ChoiceField([Status.APPROVED, Status.DENIED], error_messages=_DECISION)
    decided_by = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=200)


class ApprovalOutput(serializers.ModelSerializer[Approval]):
    class Meta:
        model = Approval
        fields = ("id", "task_id", "action", "reason", "status", "decided_by", "decided_at", "created_at")


class PendingOutput(serializers.ModelSerializer[Approval]):
    workspace_name = serializers.CharField(source="workspace.name")

    class Meta:
        model = Approval
        fields = ("id", "workspace_id", "workspace_name", "action", "reason", "status", "created_at")
