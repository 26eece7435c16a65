"""A message that came in, put before its agent once; the answer goes back into the chat.

The worker may die at any line: an agent that may have the message is not asked again, an answer that is
stored is posted by the next one. Source: docs/reference/chat_channels.md, The agent's turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from a2a.answers import read_answer
from a2a.callers import system_caller
from a2a.dispatch import Terms, proxy_a2a
from a2a.models import QueueItem
from a2a.results import Kind, Result
from a2a.services.queue import active_item, enqueue_message
from activity.events import EventType, record
from activity.models import ActivityLog
from activity.tally import tally
from chat_channels.adapters import ADAPTERS
from chat_channels.models import STATES, Channel, ChannelMessage, Direction, Status
from chat_channels.services.registry import opened
from chat_channels.services.sending import MESSAGES, REASON_CHARS, deliver_text, shortened
from chat_channels.wire import NotTaken
from config.errors import DomainError
from config.jobs import Job, enqueue
from config.leases import LEASE, Keeper
from config.persistence import persistent
from config.states import update_returning

log = structlog.get_logger(__name__)

TURN_S = 1800.0
MOST_ATTEMPTS = 5
STOPPED = "the server stopped while the agent was asked; whether it answered is not known"
NOTHING_SAID = "the agent answered without a text"
CALLER = "channel:"
_MESSAGE = "channel-"
_LATER = frozenset({Kind.DEAD, Kind.UNREACHABLE, Kind.SETTLING, Kind.WAKING})


@dataclass(frozen=True)
class Fate:
    """What an outcome means for the message."""

    status: Status
    columns: dict[str, Any] = field(default_factory=dict)


def deliver(message_id: UUID) -> None:
    """Ask the agent, unless somebody does or did; then post what it answered. A doubled or late ring finds
    nothing to do.
    """
    claimed = STATES.move(
        ChannelMessage.objects.filter(pk=message_id),
        Status.SENDING,
        attempts=F("attempts") + 1,
        lease_expires_at=Now() + LEASE,
    )
    for row in claimed:
        with keeper.keeping(str(row.pk)):
            _ask(row)
    post_reply(message_id)


def envelope_of(row: ChannelMessage, channel: Channel) -> dict[str, Any]:
    """The A2A message: the person's words, and beside them where they were said."""
    about = {
        "source": "channel",
        "channel_id": str(channel.pk),
        "channel_type": channel.channel_type,
        "chat_id": row.chat_id,
        "username": row.username,
    }
    message = {
        "messageId": f"{_MESSAGE}{row.pk}",
        "role": "user",
        "parts": [{"kind": "text", "text": row.text}],
        "metadata": about,
    }
    caller = f"{CALLER}{channel.channel_type}"
    return {
        "jsonrpc": "2.0",
        "id": message["messageId"],
        "method": "message/send",
        "params": {"message": message, "metadata": {**about, "caller": caller}},
    }


def queue_item_settled(item: QueueItem, result: Result | None) -> None:
    """Hook of the queue: a message that waited for a busy agent has come to its end."""
    if not (item.caller_label or "").startswith(CALLER):
        return
    try:
        message_id = UUID(str(item.idempotency_key).removeprefix(_MESSAGE))
    except ValueError:
        return
    fate = fate_of(result) if result is not None else _failed(item.last_error or "not delivered")
    _move(message_id, fate)


def fate_of(result: Result) -> Fate:
    """Pure."""
    match result.kind:
        case Kind.ANSWER if result.text:
            return Fate(Status.ANSWERED, {"reply": shortened(result.text), "lease_expires_at": None})
        case Kind.ANSWER:
            return Fate(Status.DONE, {"error": NOTHING_SAID})
        case Kind.TASK_OPEN | Kind.QUEUED_POLL:  # what it says about it, it says by itself
            return Fate(Status.DONE)
        case Kind.QUEUED_BUSY:
            return Fate(Status.WAITING, {"lease_expires_at": None})
    return _failed(result.error or f"not taken: {result.kind}")


def post_reply(message_id: UUID) -> None:
    """Post the stored answer into the chat it is for, by one worker at a time. What the provider refuses is
    tried again by the sweep.
    """
    free = Q(lease_expires_at=None) | Q(lease_expires_at__lt=Now())
    rows = ChannelMessage.objects.filter(free, pk=message_id, status=Status.ANSWERED)
    for row in update_returning(rows, lease_expires_at=Now() + LEASE, attempts=F("attempts") + 1):
        channel = Channel.objects.filter(pk=row.channel_id).first()
        if channel is None:
            return
        adapter, is_final = ADAPTERS[channel.channel_type], row.attempts >= MOST_ATTEMPTS
        try:
            config = opened(channel)
            chat = row.chat_id if adapter.places(config) != [""] else ""
            with keeper.keeping(str(row.pk)):
                deliver_text(adapter, config, row.reply or "", (chat, row.thread))
        except DomainError as error:
            log.warning("channel.reply_not_posted", message_id=str(row.pk), reason=error.text)
            is_final = is_final or not (isinstance(error, NotTaken) and error.is_certain)
            if is_final:
                _move(row.pk, _failed(f"the answer was not posted: {error.text}"))
            return
        persistent(lambda row=row, channel=channel: _posted(row, channel))  # type: ignore[misc]


def examine(row: ChannelMessage) -> None:
    """What is to be done with a message whose worker has died while it asked the agent."""
    channel = Channel.objects.filter(pk=row.channel_id).first()
    if channel is None:
        return
    key = f"{_MESSAGE}{row.pk}"
    told = ActivityLog.objects.filter(workspace_id=channel.workspace_id, message_id=key).first()
    if told is None:  # nothing was sent
        _move(row.pk, Fate(Status.RECEIVED, {"lease_expires_at": None}))
        enqueue(Job.CHANNEL_DELIVER, message_id=row.pk)
        return
    answer = read_answer(told.response_body) if told.response_body is not None else None
    if answer is not None and answer.text:
        _move(row.pk, Fate(Status.ANSWERED, {"reply": shortened(answer.text), "lease_expires_at": None}))
    elif active_item(channel.workspace_id, key):
        _move(row.pk, Fate(Status.WAITING, {"lease_expires_at": None}))
    else:
        _move(row.pk, _failed(STOPPED))


def _ask(row: ChannelMessage) -> None:
    channel = Channel.objects.filter(pk=row.channel_id).first()
    if channel is None:  # deleted since, and its messages with it
        return
    envelope, caller = envelope_of(row, channel), system_caller(f"{CALLER}{channel.channel_type}")
    terms = Terms(total_s=TURN_S, queues_on_timeout=False)
    result = proxy_a2a(channel.workspace_id, envelope, caller, terms)
    if _may_come_later(result):
        persistent(lambda: enqueue_message(channel.workspace_id, envelope, caller))
        fate = Fate(Status.WAITING, {"lease_expires_at": None})
    else:
        fate = fate_of(result)
    log.info("channel.asked", message_id=str(row.pk), kind=result.kind, status=fate.status)
    persistent(lambda: _move(row.pk, fate))


def _may_come_later(result: Result) -> bool:
    """The agent surely does not have it, and may be there in a moment: the queue brings it."""
    is_passing = result.kind in _LATER or (result.kind == Kind.AGENT_ERROR and result.is_gateway)
    return is_passing and result.is_certainly_undelivered


def _failed(reason: str) -> Fate:
    return Fate(Status.FAILED, {"error": reason[:REASON_CHARS], "lease_expires_at": None})


@transaction.atomic
def _move(message_id: UUID, fate: Fate) -> None:
    """Nothing happens to a message that has come to its end meanwhile."""
    rows = ChannelMessage.objects.filter(pk=message_id)
    for row in STATES.move(rows, fate.status, **fate.columns):
        if row.status == Status.ANSWERED:
            enqueue(Job.CHANNEL_DELIVER, message_id=row.pk)
        elif row.status in {Status.DONE, Status.FAILED}:
            _count(row.channel_id, row.status)


def _count(channel_id: UUID, outcome: str) -> None:
    channel_type = Channel.objects.filter(pk=channel_id).values_list("channel_type", flat=True).first()
    if channel_type is not None:
        transaction.on_commit(
            lambda: tally.add(MESSAGES, channel_type=channel_type, outcome=str(outcome)), robust=True
        )


@transaction.atomic
def _posted(row: ChannelMessage, channel: Channel) -> None:
    for _ in STATES.move(ChannelMessage.objects.filter(pk=row.pk), Status.DONE, lease_expires_at=None):
        _count(channel.pk, Status.DONE)
        told = {"channel_id": str(channel.pk), "channel_type": channel.channel_type}
        record(EventType.CHANNEL_MESSAGE, channel.workspace_id, {**told, "direction": Direction.OUTBOUND})


def renew(ids: list[str]) -> int:
    held = ChannelMessage.objects.filter(pk__in=ids, status__in=[Status.SENDING, Status.ANSWERED])
    return held.update(lease_expires_at=Now() + LEASE)


keeper = Keeper(renew)
