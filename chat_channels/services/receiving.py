"""A provider's webhook: believed only once its signature was found right, answered at once, worked on later.

Source: docs/reference/chat_channels.md, Receiving.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from activity.events import EventType, record
from activity.redaction import storable
from activity.tally import tally
from chat_channels.adapters import ADAPTERS
from chat_channels.adapters.base import BOT_TOKEN, Adapter, Delivery, Handshake, Incoming, listens_to
from chat_channels.configs import user
from chat_channels.manager import Listener, listeners
from chat_channels.models import Channel, ChannelMessage, Direction, Status
from chat_channels.services.sending import MESSAGES, shortened
from config.errors import NotFound, Unauthorized
from config.jobs import Job, enqueue

log = structlog.get_logger(__name__)

KEY_CHARS = 200


class Outcome(StrEnum):
    ACCEPTED = "accepted"  # its row is stored, now or by an earlier delivery of the same message
    IGNORED = "ignored"  # nobody wrote anything, the writer may not, or the budget is used up
    NO_CHANNEL = "no_channel"  # the sender is known, the chat is nobody's


class _Repeated(Exception):
    """Another delivery of the same message was faster."""


def receive(channel_type: str, delivery: Delivery) -> Mapping[str, Any]:
    """The answer to a delivery. Every channel of the provider is asked whether it knows the sender before a
    byte of the body is interpreted. Raises NotFound, Unauthorized, BadRequest.
    """
    adapter = ADAPTERS.get(channel_type)
    if adapter is None:
        raise NotFound("unknown channel type")
    known = _entitled(
        adapter, [one for one in listeners(channel_type) if adapter.verify(one.config, delivery)]
    )
    if not known:
        log.warning("webhook.refused", channel_type=channel_type)
        tally.add(MESSAGES, channel_type=channel_type, outcome="refused")
        raise Unauthorized("invalid webhook signature")
    said = adapter.parse(known[0].config, delivery)
    if isinstance(said, Handshake):
        return said.answer
    outcome = _taken(known, said) if said is not None else Outcome.IGNORED
    log.info("webhook.received", channel_type=channel_type, outcome=outcome)
    tally.add(MESSAGES, channel_type=channel_type, outcome=outcome.value)
    return adapter.acknowledgement(outcome)


def _entitled(adapter: Adapter, known: list[Listener]) -> list[Listener]:
    """Where what verifies a delivery is no secret, knowing it proves nothing: the channel that had it first
    counts, with those of its workspace and those that hold the same bot token.
    """
    if not known or not adapter.is_key_public:
        return known
    first, token = known[0], known[0].config.get(BOT_TOKEN, "")
    return [
        one
        for one in known
        if one.workspace_id == first.workspace_id or (token and one.config.get(BOT_TOKEN) == token)
    ]


def _taken(known: list[Listener], said: Incoming) -> Outcome:
    here = [one for one in known if listens_to(one.config, said.chat_id)]
    if not here:
        return Outcome.NO_CHANNEL
    taken = [_accept(one, said) for one in here if _may_write(one, said)]
    return Outcome.ACCEPTED if any(taken) else Outcome.IGNORED


def _may_write(listener: Listener, said: Incoming) -> bool:
    """A number on the list is an id: some providers let people take one for a name."""
    who = {user(said.user_id)}
    if not said.username.isdecimal():
        who.add(user(said.username))
    return not listener.allowed_users or bool(listener.allowed_users & (who - {""}))


def _accept(listener: Listener, said: Incoming) -> bool:
    """Store the message once, however often it is delivered; its agent is asked by a worker. False when the
    channel is gone, disabled, or over its budget.
    """
    key = storable(said.key)[:KEY_CHARS]
    if ChannelMessage.objects.filter(channel_id=listener.channel_id, delivery_key=key).exists():
        return True
    try:
        with transaction.atomic():
            return _stored(listener, said, key)
    except _Repeated:
        return True


def _stored(listener: Listener, said: Incoming, key: str) -> bool:
    row = Channel.objects.filter(pk=listener.channel_id, enabled=True).within_budget()
    if not row.update(message_count=F("message_count") + 1, last_message_at=Now()):
        return False
    message = ChannelMessage(
        channel_id=listener.channel_id,
        direction=Direction.INBOUND,
        status=Status.RECEIVED,
        delivery_key=key,
        chat_id=storable(said.chat_id)[:KEY_CHARS],
        thread=storable(said.thread)[:KEY_CHARS],
        username=storable(said.shown_name)[:KEY_CHARS],
        text=shortened(storable(said.text)),
    )
    ChannelMessage.objects.bulk_create([message], ignore_conflicts=True)
    if not ChannelMessage.objects.filter(pk=message.pk).exists():
        raise _Repeated
    told = {
        "channel_id": str(listener.channel_id),
        "channel_type": listener.channel_type,
        "direction": Direction.INBOUND,
        "username": message.username,
    }
    record(EventType.CHANNEL_MESSAGE, listener.workspace_id, told)
    enqueue(Job.CHANNEL_DELIVER, message_id=message.pk)
    return True
