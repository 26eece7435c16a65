"""Bodies of the token and secret routes, and what is told about tokens and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from access.models import GlobalSecret, OrgApiToken, WorkspaceAuthToken, WorkspaceSecret
from access.secret_names import KEY, MAX_VALUE_BYTES, RESERVED_KEYS

MAX_NAME_CHARS = 100


class SecretInput(serializers.Serializer[None]):
    key = serializers.CharField(trim_whitespace=False, max_length=10_000)
    value = serializers.CharField(trim_whitespace=False)

    def to_internal_value(self, data: Any) -> Any:
        for name in ("key", "value"):  # numbers and booleans are no texts here
            if not isinstance(data.get(name), str) or not data[name]:
                raise _refusal("key and value are required")
        key, value = data["key"], data["value"]
        if problem := secret_problem(key, value):
            raise _refusal(problem)
        return {"key": key, "value": value}


def secret_problem(key: str, value: str) -> str | None:
    """Why no agent may be given this secret, in the words of the API; None when it may.

    Source: docs/reference/access.md, Secrets.
    """
    if not KEY.fullmatch(key):
        return "invalid key"
    if key in RESERVED_KEYS:
        return "reserved key"
    if "\x00" in value:
        return "value must not contain NUL characters"
    if len(value.encode()) > MAX_VALUE_BYTES:
        return "value too large (64 KiB at most)"
    return None


def _refusal(text: str) -> serializers.ValidationError:
    return serializers.ValidationError({"non_field_errors": [text]})


BAD_EXPIRY = "expires_at must be an RFC 3339 time in the future"


class OrgTokenInput(serializers.Serializer[None]):
    name = serializers.CharField(
        default=None,
        allow_null=True,
        allow_blank=True,
        max_length=MAX_NAME_CHARS,
        error_messages={"max_length": f"name must be at most {MAX_NAME_CHARS} characters"},
    )
    expires_at = serializers.DateTimeField(
        default=None,
        allow_null=True,
        error_messages={"invalid": BAD_EXPIRY},
    )

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data.get("name") or "", str):
            raise serializers.ValidationError({"name": ["name must be text"]})
        expiry = data.get("expires_at")
        if expiry and not (isinstance(expiry, str) and re.search(r"(?i)(z|[+-]\d\d:\d\d)$", expiry)):
            raise serializers.ValidationError({"expires_at": [BAD_EXPIRY]})
        return super().to_internal_value(data)

    def validate_name(self, name: str | None) -> str | None:
        return name or None

    def validate_expires_at(self, moment: datetime | None) -> datetime | None:
        if moment is not None and moment <= timezone.now():
            raise serializers.ValidationError(BAD_EXPIRY)
        return moment


def workspace_token(row: WorkspaceAuthToken) -> dict[str, Any]:
    keys = ("id", "prefix", "created_at", "last_used_at", "kind")
    return {key: getattr(row, key) for key in keys}


def org_token(row: OrgApiToken) -> dict[str, Any]:
    """Keys without a value are left out."""
    always = {"id": row.pk, "prefix": row.prefix, "created_at": row.created_at}
    keys = ("name", "org_id", "created_by", "last_used_at", "expires_at")
    return {**always, **{key: getattr(row, key) for key in keys if getattr(row, key)}}


def secret_names(own: Iterable[WorkspaceSecret], shared: Iterable[GlobalSecret]) -> list[dict[str, Any]]:
    """Own secrets, then the global ones they do not override; never a value."""
    own = list(own)
    overridden = {row.key for row in own}
    visible = [row for row in shared if row.key not in overridden]
    return [_name(row, "workspace") for row in own] + [_name(row, "global") for row in visible]


def _name(row: WorkspaceSecret | GlobalSecret, scope: str) -> dict[str, Any]:
    times = {"created_at": row.created_at, "updated_at": row.updated_at}
    return {"key": row.key, "has_value": True, "scope": scope, **times}
