"""The verb over what agents use of their models, per workspace and UTC day.

Source: docs/reference/panels.md, Usage.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db import Error, connection, transaction
from django.utils import timezone

log = structlog.get_logger(__name__)

MAX_TOKENS_PER_CALL = 10_000_000
USD_PER_INPUT_TOKEN = Decimal("0.000003")
USD_PER_OUTPUT_TOKEN = Decimal("0.000015")

# The cost stops at what its column can hold: a full column must not lose the counts.
_ADD = """
INSERT INTO workspace_token_usage AS day (id, workspace_id, period_start, input_tokens, output_tokens,
                                          call_count, estimated_cost_usd, updated_at)
SELECT %(new_id)s, id, %(day)s, %(input)s, %(output)s, 1, %(cost)s, now()
FROM workspaces WHERE id = %(id)s AND status <> 'removed' FOR KEY SHARE
ON CONFLICT (workspace_id, period_start) DO UPDATE SET
    input_tokens = day.input_tokens + EXCLUDED.input_tokens,
    output_tokens = day.output_tokens + EXCLUDED.output_tokens,
    call_count = day.call_count + 1,
    estimated_cost_usd = least(day.estimated_cost_usd + EXCLUDED.estimated_cost_usd, 999999.999999),
    updated_at = now()
"""


def day_of(moment: datetime) -> datetime:
    """Midnight UTC before `moment`."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def record_usage(
    *, workspace_id: UUID, input_tokens: int, output_tokens: int, now: datetime | None = None
) -> None:
    """Add one call to the day's usage. Counts are clamped to 0..10,000,000; a call that used nothing counts
    as none.

    Never raises for the database: a message must not be lost because its cost could not be counted.
    """
    used_in, used_out = (max(0, min(count, MAX_TOKENS_PER_CALL)) for count in (input_tokens, output_tokens))
    if not used_in and not used_out:
        return
    values: dict[str, Any] = {
        "new_id": uuid4(),
        "id": workspace_id,
        "day": day_of(now or timezone.now()),
        "input": used_in,
        "output": used_out,
        "cost": used_in * USD_PER_INPUT_TOKEN + used_out * USD_PER_OUTPUT_TOKEN,
    }
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_ADD, values)
    except Error as error:
        log.warning("usage.not_recorded", workspace_id=str(workspace_id), error=str(error))
