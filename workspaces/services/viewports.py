"""The verb over the canvas's viewport. Source: docs/reference/panels.md, Viewport."""

from __future__ import annotations

from django.utils import timezone

from workspaces.models import VIEWPORT_ID, CanvasViewport


def save_viewport(*, x: float, y: float, zoom: float) -> None:
    """Remember where the canvas looks. The last writer wins: it is one person's screen."""
    row = CanvasViewport(id=VIEWPORT_ID, x=x, y=y, zoom=zoom, saved_at=timezone.now())
    CanvasViewport.objects.bulk_create(
        [row], update_conflicts=True, unique_fields=["id"], update_fields=["x", "y", "zoom", "saved_at"]
    )
