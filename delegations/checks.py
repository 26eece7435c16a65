"""What is wrong with the switches of delegations. Source: docs/reference/delegations.md, Switches."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register


@register()
def check_switches(**_: Any) -> list[CheckMessage]:
    writes, tells = settings.DELEGATION_LEDGER_WRITE, settings.DELEGATION_RESULT_INBOX_PUSH
    if writes and not tells:
        return [
            Warning(
                "DELEGATION_RESULT_INBOX_PUSH is off: polling agents do not learn how their delegations end",
                hint="Unset it, or have the agents read GET /workspaces/:id/delegations.",
                id="delegations.W001",
            )
        ]
    if tells and not writes:
        return [
            Warning(
                "DELEGATION_LEDGER_WRITE is off: new delegations are refused",
                hint="Unset it when the reason for stopping them is gone.",
                id="delegations.W002",
            )
        ]
    return []
