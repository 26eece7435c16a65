"""Bodies the catalogue's routes take."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from config.fields import JSONValue, Text


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class Texts(JSONValue):
    """Texts by path, with whatever a text file may hold."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict) or not all(isinstance(text, str) for text in data.values()):
            raise serializers.ValidationError("must be texts by path")
        return data


@extend_schema_field({"type": "array", "items": {"type": "string"}})
class Names(JSONValue):
    def to_internal_value(self, data: Any) -> list[str]:
        text = Text()
        if not isinstance(data, list):
            raise serializers.ValidationError("must be a list of names")
        return [text.to_internal_value(one) for one in data]


class AllowlistInput(serializers.Serializer[Any]):
    """`PUT /orgs/:id/plugins/allowlist`."""

    error_text = "invalid request body"
    plugins = Names()
    enabled_by = Text()


class ImportInput(serializers.Serializer[Any]):
    """`POST /templates/import`."""

    error_text = "invalid request body"
    name = Text()
    files = Texts()
