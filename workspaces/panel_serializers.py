"""Bodies of the panel routes: what a person sets for one workspace, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from config.errors import BadRequest, NotFound, TooLarge
from config.fields import Finite, Text, Whole
from workspaces.budgets import effective_spend
from workspaces.models import CanvasViewport, TokenUsage, Workspace
from workspaces.serializers import MODEL_CHARS
from workspaces.services.usage import day_of
from workspaces.texts import holds_nul

CONFIG_BYTES = 256 * 1024
BAD_BUDGET = "budget_limit must be an integer (USD cents) or null"


class AgentInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    model = Text()


def agent_model(given: dict[str, Any]) -> str:
    """Raises BadRequest."""
    model = str(given["model"]).strip()
    if not model or slug_problem(model, "model"):
        raise BadRequest(AgentInput.error_text)
    return model


def slug_problem(text: str, field: str) -> str | None:
    """What is wrong with the name of a model or a provider; None when it is fine."""
    if len(text) > MODEL_CHARS:
        return f"{field} must be at most {MODEL_CHARS} characters"
    if "\n" in text or "\r" in text:
        return f"{field} must not contain newline characters"
    if holds_nul(text):
        return f"{field} contains invalid characters"
    return None


class MoveInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    target_workspace_id = Text()


def move_target(given: dict[str, Any]) -> UUID:
    """A target that is no id is an unknown one. Raises NotFound."""
    try:
        return UUID(given["target_workspace_id"])
    except ValueError:
        raise NotFound("target workspace not found") from None


@extend_schema_field({"type": "integer"})
class Cents(Whole):
    """A whole number of USD cents, 0 included."""

    def to_internal_value(self, data: Any) -> int:
        try:
            cents = super().to_internal_value(data)
        except serializers.ValidationError:
            raise serializers.ValidationError(BAD_BUDGET) from None
        if cents < 0:
            raise serializers.ValidationError("budget_limit must be >= 0 (USD cents)")
        return cents


class BudgetInput(serializers.Serializer[Any]):
    budget_limit = Cents(allow_null=True, error_messages={"required": "budget_limit field is required"})


def budget(row: Workspace, *, now: datetime) -> dict[str, int | None]:
    """`budget_remaining` may be negative; it is null without a limit."""
    spent = effective_spend(row.monthly_spend, row.spend_month, now=now)
    limit = row.budget_limit
    return {
        "budget_limit": limit,
        "monthly_spend": spent,
        "budget_used": spent,
        "budget_remaining": None if limit is None else limit - spent,
    }


class ModelInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    model = Text()


class ProviderInput(serializers.Serializer[Any]):
    error_text = "invalid request body"
    provider = Text()


def config_patch(read: Callable[[], bytes]) -> dict[str, Any]:
    """The object to merge. `read` gives the body. Raises TooLarge or BadRequest in the texts of the API."""
    try:
        body = read()
    except OSError:  # the client went away, or sent less than it declared
        raise TooLarge("body too large or unreadable") from None
    if len(body) > CONFIG_BYTES:
        raise TooLarge("body too large or unreadable")
    try:
        patch = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest("invalid JSON") from None
    if not isinstance(patch, dict):
        raise BadRequest("config must be a JSON object")
    if holds_nul(patch):
        raise BadRequest("config must not contain NUL characters")
    return patch


class ViewportInput(serializers.Serializer[Any]):
    error_text = "invalid viewport data"
    x = Finite(default=0.0)
    y = Finite(default=0.0)
    zoom = Finite(default=1.0)

    def validate_zoom(self, zoom: float) -> float:
        if zoom <= 0:
            raise serializers.ValidationError(self.error_text)
        return zoom


def viewport(row: CanvasViewport | None) -> dict[str, float]:
    seen = row or CanvasViewport()
    return {"x": seen.x, "y": seen.y, "zoom": seen.zoom}


def usage(row: TokenUsage | None, *, now: datetime) -> dict[str, Any]:
    """The current UTC day; the cost is text, so that no client rounds it."""
    used, start = row or TokenUsage(), day_of(now)
    return {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "total_calls": used.call_count,
        "estimated_cost_usd": f"{used.estimated_cost_usd:.6f}",
        "period_start": _whole_seconds(start),
        "period_end": _whole_seconds(start + timedelta(days=1)),
    }


def _whole_seconds(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
