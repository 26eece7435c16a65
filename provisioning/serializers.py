"""Shapes of the lifecycle routes."""

from __future__ import annotations

from rest_framework import serializers

from provisioning.models import ProvisionRun


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
