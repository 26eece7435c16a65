"""What an agent, a person or a schedule says in a chat. Source: docs/reference/chat_channels.md, Sending."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from activity.events import EventType, record
from activity.redaction import storable
from activity.tally import tally
from chat_channels.adapters import ADAPTERS
from chat_channels.adapters.base import Adapter, Outgoing, pieces
from chat_channels.models import Channel, ChannelMessage, Direction, Status
from chat_channels.services.registry import get_channel, opened
from chat_channels.wire import NotTaken
from config.errors import BadRequest, Conflict, DomainError, TooManyRequests

log = structlog.get_logger(__name__)

TEXT_CHARS = 20_000
REASON_CHARS = 300
POSTING_S = 30.0
MESSAGES = "molecule_channel_messages_total"
TEST_TEXT = "This is a test message. The channel works."


@dataclass(frozen=True)
class Sent:
    """`failed`: the chats that did not get it."""

    failed: tuple[str, ...] = ()


def send_message(*, workspace_id: UUID, channel_id: UUID, text: str) -> Sent:
    """Say it in all chats of the channel, within 30 s. Raises NotFound, Conflict (disabled), TooManyRequests
    (the budget is used up), BadRequest (no text), NotTaken when no chat has it.
    """
    row = get_channel(workspace_id, channel_id)
    if not row.enabled:
        raise Conflict("channel is disabled")
    return _sent(row, text, time.monotonic() + POSTING_S)


def send_test(*, workspace_id: UUID, channel_id: UUID, text: str) -> Sent:
    """The same, for a channel that is not enabled yet, too; without a text it says one of its own."""
    row = get_channel(workspace_id, channel_id)
    return _sent(row, text or TEST_TEXT, time.monotonic() + POSTING_S)


def post_to_channels(workspace_id: UUID, text: str, *, within_s: float = POSTING_S) -> list[str]:
    """Say it in every enabled channel of the workspace; returns the providers that have it. What fails is
    logged. Waits for providers, so never inside a transaction.
    """
    if not text.strip():
        return []
    until, posted = time.monotonic() + within_s, []
    rows = Channel.objects.filter(workspace_id=workspace_id, enabled=True).order_by("channel_type")
    for row in list(rows):
        try:
            _sent(row, shortened(text), until)
        except DomainError as error:
            log.warning("channel.not_posted", channel_id=str(row.pk), reason=error.text)
        else:
            posted.append(row.channel_type)
    return posted


def shortened(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else f"{text[: TEXT_CHARS - 1]}…"


def deliver_text(
    adapter: Adapter, config: Mapping[str, str], text: str, place: tuple[str, str], until: float | None = None
) -> None:
    """Post a text of any length into one (chat, thread). Raises NotTaken, whose text holds no credential."""
    chat_id, thread = place
    is_begun = False
    for piece in pieces(text, adapter.text_limit):
        try:
            adapter.send(config, Outgoing(piece, chat_id, thread, until))
        except NotTaken as error:
            said = without_secrets(error.text, adapter, config)
            raise NotTaken(said, is_certain=error.is_certain and not is_begun) from None
        is_begun = True


def count_message(channel_id: UUID) -> bool:
    """Take one from the channel's budget, in one statement that says whether there was one left."""
    rows = Channel.objects.filter(pk=channel_id).within_budget()
    return bool(rows.update(message_count=F("message_count") + 1, last_message_at=Now()))


def _sent(row: Channel, text: str, until: float) -> Sent:
    text = storable(text)
    if not text.strip() or len(text) > TEXT_CHARS:
        raise BadRequest(f"text is required, and has at most {TEXT_CHARS} characters")
    config, adapter = opened(row), ADAPTERS[row.channel_type]
    if not count_message(row.pk):
        raise TooManyRequests("channel budget exceeded")
    failures: dict[str, NotTaken] = {}
    places = adapter.places(config)
    for chat_id in places:
        try:
            deliver_text(adapter, config, text, (chat_id, ""), until)
        except NotTaken as error:
            failures[chat_id] = error
    is_sent = len(failures) < len(places)
    tally.add(MESSAGES, channel_type=row.channel_type, outcome="sent" if is_sent else "not_sent")
    if not is_sent:
        _give_up(row, list(failures.values()))
    _note(row, text)
    return Sent(tuple(failures))


def _give_up(row: Channel, failures: Sequence[NotTaken]) -> None:
    """Nobody has it: the budget gets it back, unless somebody may have it all the same."""
    if all(error.is_certain for error in failures):
        taken = Channel.objects.filter(pk=row.pk, message_count__gt=0)
        taken.update(message_count=F("message_count") - 1)
    raise failures[0]


@transaction.atomic
def _note(row: Channel, text: str) -> None:
    if not Channel.objects.select_for_update(no_key=True).filter(pk=row.pk).exists():
        return  # deleted while it was said
    ChannelMessage.objects.create(channel=row, direction=Direction.OUTBOUND, status=Status.DONE, text=text)
    told = {"channel_id": str(row.pk), "channel_type": row.channel_type, "direction": Direction.OUTBOUND}
    record(EventType.CHANNEL_MESSAGE, row.workspace_id, told)


def without_secrets(text: str, adapter: Adapter, config: Mapping[str, str]) -> str:
    """A provider's own words may repeat what it was sent."""
    for key in sorted(adapter.sensitive):
        if value := config.get(key):
            text = text.replace(value, "[REDACTED]")
    return str(storable(text))[:REASON_CHARS]
