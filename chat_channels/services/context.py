"""What was said lately in a workspace's channels, for a message that begins without anybody asking."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.utils import timezone

from chat_channels.models import ChannelMessage, Direction

MOST_MESSAGES = 10
LINE_CHARS = 500
LATELY = timedelta(hours=24)
HEADING = "Recent messages in your channels, oldest first:"


def recent_context(workspace_id: UUID) -> str:
    """Up to ten messages of the last day with what the agent said to them, one line each; empty without any.
    A line break in a message is a blank: nobody can write a line in somebody else's name.
    """
    rows = ChannelMessage.objects.filter(
        channel__workspace_id=workspace_id, created_at__gt=timezone.now() - LATELY
    )
    lines: list[str] = []
    for row in reversed(rows.select_related("channel").order_by("-created_at")[:MOST_MESSAGES]):
        is_theirs = row.direction == Direction.INBOUND
        lines.append(_line(row, (row.username or "somebody") if is_theirs else "you", row.text))
        if row.reply:
            lines.append(_line(row, "you", row.reply))
    return "\n".join([HEADING, *lines]) if lines else ""


def _line(row: ChannelMessage, who: str, text: str) -> str:
    words = " ".join(text.split())
    shown = words if len(words) <= LINE_CHARS else f"{words[: LINE_CHARS - 1]}…"
    return f"[{row.channel.channel_type}] {' '.join(who.split())}: {shown}"
