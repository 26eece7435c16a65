"""The console's login: a password cannot be guessed by trying.

Source: docs/reference/console.md, Login.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from unfold.forms import AuthenticationForm

from access.windows import Limit, spend
from config.errors import TooManyRequests

TRIES = Limit("console-login", 10, 300)  # per address


class ThrottledLogin(AuthenticationForm):  # type: ignore[misc]
    """Every try of an address counts, before the password is looked at: tries at once cannot slip through."""

    def clean(self) -> dict[str, Any]:
        try:
            spend(TRIES, getattr(self.request, "client_address", "") or "unknown")
        except TooManyRequests as refusal:
            wait_s = refusal.fields["retry_after"]
            raise ValidationError(f"Too many tries. Wait {wait_s} seconds.", code="throttled") from None
        cleaned: dict[str, Any] = super().clean()
        return cleaned
