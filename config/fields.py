"""JSON values as clients send them: a number is no text, a text is no number, and a bool is neither.

The framework's own fields convert between them, which hides a client's mistake until something fails on it.
"""

from __future__ import annotations

import math
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


class JSONValue(serializers.Field):  # type: ignore[type-arg]
    """Base: what was accepted is given back as it is."""

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field({"type": "string"})
class Log(JSONValue):
    """A string with whatever a process wrote, NUL included: the verb makes it storable."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("must be text")
        return data


@extend_schema_field({"type": "string"})
class Text(Log):
    """A string, kept as it is; NUL is refused, which the database cannot keep."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if "\x00" in text:
            raise serializers.ValidationError("must be text")
        return text


@extend_schema_field({"type": "number"})
class Finite(JSONValue):
    """A number that is one; a bool is none."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
            raise serializers.ValidationError("must be a number")
        return float(data)


@extend_schema_field({"type": "integer"})
class Whole(JSONValue):
    """A number without a fraction; a bool is none."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
            raise serializers.ValidationError("must be a whole number")
        if data != int(data) or abs(data) > 2**62:
            raise serializers.ValidationError("must be a whole number")
        return int(data)


@extend_schema_field({"type": "boolean"})
class Flag(JSONValue):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("must be true or false")
        return data


@extend_schema_field({"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}})
class Place(JSONValue):
    """A position on the canvas, as (x, y); other keys are ignored."""

    def to_internal_value(self, data: Any) -> tuple[float, float]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("must be an object")
        number = Finite()
        x, y = (number.to_internal_value(data.get(axis, 0)) for axis in ("x", "y"))
        return x, y
