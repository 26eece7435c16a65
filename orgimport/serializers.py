"""Bodies of the org routes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.fields import empty

from config.fields import Flag
from orgimport.services import Mode


class PlainText(serializers.CharField):
    """Any text, as it is: the view judges it."""

    def run_validation(self, data: Any = empty) -> Any:
        is_empty, value = self.validate_empty_values(data)
        return value if is_empty else self.to_internal_value(data)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("must be a text")
        return data


class OrgImportInput(serializers.Serializer[None]):
    """`dir` wins over `template`; whatever else is sent is ignored, a wish to skip the checks too."""

    error_text = "invalid request body"
    dir = PlainText(default="", allow_null=True)
    template = serializers.DictField(default=None, allow_null=True)
    mode = serializers.CharField(default=Mode.MERGE, allow_blank=True, allow_null=True)
    dry_run = Flag(default=False)
    parent_id = serializers.UUIDField(default=None, allow_null=True)
