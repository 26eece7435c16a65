"""Shapes of the lifecycle routes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from config.fields import Log
from provisioning.models import ProvisionRun
from provisioning.progress import PHASES


class BootFailureInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    error = Log(required=False, allow_null=True)
    log_tail = Log(required=False, allow_null=True)


class BootEventInput(serializers.Serializer[Any]):
    phase = serializers.ChoiceField(PHASES, error_messages=dict.fromkeys(
        ["required", "invalid_choice", "null"], f"phase must be one of {', '.join(PHASES)}"))  # fmt: skip
    message = Log(required=False, allow_null=True)


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
