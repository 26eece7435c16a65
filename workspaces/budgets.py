"""What a workspace may spend in a month and what it has spent, in USD cents.

Source: docs/reference/panels.md, Budget.
"""

from __future__ import annotations

from datetime import UTC, date, datetime


def effective_spend(monthly_spend: int, spend_month: date | None, *, now: datetime) -> int:
    """What counts against the limit now: a spend reported for an earlier month (UTC) no longer does.

    A blocked agent cannot spend and so never reports: without this it would stay blocked for ever.
    """
    this_month = now.astimezone(UTC).date().replace(day=1)
    return 0 if spend_month is not None and spend_month < this_month else monthly_spend
