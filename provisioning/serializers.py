"""Shapes of the lifecycle routes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from config.fields import Log
from provisioning.models import ProvisionRun
from provisioning.progress import PHASES
from provisioning.services.duplicates import DEFAULT_MAX

MAX_AT_ONCE = 100  # removals of one request


class BootFailureInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    error = Log(required=False, allow_null=True)
    log_tail = Log(required=False, allow_null=True)


class BootEventInput(serializers.Serializer[Any]):
    phase = serializers.ChoiceField(PHASES, error_messages=dict.fromkeys(
        ["required", "invalid_choice", "null"], f"phase must be one of {', '.join(PHASES)}"))  # fmt: skip
    message = Log(required=False, allow_null=True)


class CleanupInput(serializers.Serializer[Any]):
    """`POST /admin/workspaces/duplicates/cleanup`: without `dry_run: false` nothing is removed."""

    plan = serializers.CharField(required=False, default="", max_length=64)
    ids = serializers.ListField(
        child=serializers.UUIDField(), required=False, allow_null=True, max_length=1000
    )
    dry_run = serializers.BooleanField(default=True)
    max = serializers.IntegerField(default=DEFAULT_MAX, min_value=1, max_value=MAX_AT_ONCE)
    stale_days = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=3650)
    include_live = serializers.BooleanField(default=False)
    allow_data_loss = serializers.BooleanField(default=False)


class RunOutput(serializers.ModelSerializer[ProvisionRun]):
    """A run as its workspace may see it: without `error_detail` and without the worker's name."""

    class Meta:
        model = ProvisionRun
        fields = (
            "id",
            "generation",
            "kind",
            "trigger",
            "backend",
            "state",
            "error_class",
            "error_safe",
            "compute_id",
            "image",
            "image_digest",
            "steps",
            "attempts",
            "queued_at",
            "started_at",
            "finished_at",
        )
