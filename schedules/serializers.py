"""Shapes of the schedule routes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from activity.models import ActivityLog
from config.fields import Flag, Log, Text
from schedules.models import Schedule
from schedules.selectors import Health

PROMPT_BYTES = 64 * 1024
NAME_CHARS = 255
_NEEDED = "cron_expr and prompt are required"


class Prompt(Log):
    """Some text; carriage returns go."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data).replace("\r", "").replace("\x00", "")
        if not text.strip():
            raise serializers.ValidationError(_NEEDED)
        if len(text.encode(errors="replace")) > PROMPT_BYTES:
            raise serializers.ValidationError(f"prompt must be at most {PROMPT_BYTES} bytes")
        return text


class Name(Text):
    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data).strip()
        if len(name) > NAME_CHARS:
            raise serializers.ValidationError(f"name must be at most {NAME_CHARS} characters")
        return name


class Zone(Text):
    """Nothing is UTC."""

    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data).strip() or "UTC"


class CronText(Text):
    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data).strip()
        if not text:
            raise serializers.ValidationError(_NEEDED)
        return text


_REQUIRED: dict[str, Any] = dict.fromkeys(["required", "null"], _NEEDED)


class ScheduleInput(serializers.Serializer[Any]):
    cron_expr = CronText(error_messages=_REQUIRED)
    prompt = Prompt(error_messages=_REQUIRED)
    name = Name(default="")
    timezone = Zone(default="UTC")
    enabled = Flag(default=True)


class ScheduleOutput(serializers.ModelSerializer[Schedule]):
    class Meta:
        model = Schedule
        fields = (
            "id",
            "workspace_id",
            "name",
            "cron_expr",
            "timezone",
            "prompt",
            "enabled",
            "last_run_at",
            "next_run_at",
            "run_count",
            "last_status",
            "last_error",
            "source",
            "created_at",
            "updated_at",
        )


class PeerOutput(serializers.ModelSerializer[Schedule]):
    """What a peer may know: how it goes, and neither when nor what."""

    class Meta:
        model = Schedule
        fields = (
            "id",
            "name",
            "enabled",
            "last_run_at",
            "next_run_at",
            "run_count",
            "last_status",
            "last_error",
        )


def run_of_history(row: ActivityLog) -> dict[str, Any]:
    return {
        "timestamp": row.created_at,
        "duration_ms": row.duration_ms,
        "status": row.status,
        "error_detail": row.error_detail,
        "request": row.request_body,
    }


def health_entry(known: Health) -> dict[str, Any]:
    row = known.schedule
    return {
        "workspace_id": row.workspace_id,
        "workspace_name": row.workspace.name,
        "schedule_id": row.pk,
        "schedule_name": row.name,
        "cron_expr": row.cron_expr,
        "last_run_at": row.last_run_at,
        "expected_next_run": row.next_run_at,
        "status": known.status,
        "stale_threshold_seconds": known.threshold_s,
    }
