"""Chats outside that a workspace listens to and talks in. Source: docs/reference/chat_channels.md."""

from __future__ import annotations

from typing import Self
from uuid import uuid4

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from config.states import StateMachine


class ChannelType(models.TextChoices):
    """The providers; each has its file in `adapters/`."""

    DISCORD = "discord"
    LARK = "lark"
    SLACK = "slack"
    TELEGRAM = "telegram"


class Direction(models.TextChoices):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Status(models.TextChoices):
    """Of a message that came in; one that went out is `done` when it is stored."""

    RECEIVED = "received"  # acknowledged to the provider; its agent was not asked yet
    SENDING = "sending"  # a worker asks the agent, and holds the lease
    WAITING = "waiting"  # in the queue of the busy agent
    ANSWERED = "answered"  # `reply` is to be posted
    DONE = "done"
    FAILED = "failed"


UNFINISHED = (Status.RECEIVED, Status.SENDING, Status.WAITING, Status.ANSWERED)

STATES = StateMachine(
    {  # becomes: {from}
        Status.RECEIVED: {Status.SENDING},  # its worker died before anything was sent
        Status.SENDING: {Status.RECEIVED},
        Status.WAITING: {Status.SENDING},
        Status.ANSWERED: {Status.SENDING, Status.WAITING},
        Status.DONE: {Status.SENDING, Status.WAITING, Status.ANSWERED},
        Status.FAILED: {Status.SENDING, Status.WAITING, Status.ANSWERED},
    }
)


class ChannelQuerySet(models.QuerySet["Channel"]):
    def listening(self) -> Self:
        """Enabled channels of workspaces that are still there."""
        return self.filter(enabled=True).exclude(workspace__status="removed")

    def within_budget(self) -> Self:
        return self.filter(Q(channel_budget=None) | Q(message_count__lt=F("channel_budget")))


class Channel(models.Model):
    """A workspace's place with one provider. `channel_config` holds sensitive values sealed (sealing.py)."""

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    workspace = models.ForeignKey("workspaces.Workspace", models.CASCADE, related_name="+", db_index=False)
    channel_type = models.TextField(choices=ChannelType)
    channel_config = models.JSONField(default=dict)
    enabled = models.BooleanField(default=True, db_default=True)
    allowed_users = models.JSONField(default=list)  # ids and names as text; empty: everybody in the chat
    last_message_at = models.DateTimeField(null=True)
    message_count = models.IntegerField(default=0, db_default=0)
    channel_budget = models.IntegerField(null=True)  # messages in all; null: no limit
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    objects = ChannelQuerySet.as_manager()

    class Meta:
        db_table = "workspace_channels"
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "channel_type"], name="workspace_channels_workspace_type_uniq"
            ),
            models.CheckConstraint(
                name="workspace_channels_type", condition=Q(channel_type__in=ChannelType.values)
            ),
            models.CheckConstraint(
                name="workspace_channels_counts",
                condition=Q(message_count__gte=0) & (Q(channel_budget=None) | Q(channel_budget__gte=0)),
            ),
        ]
        indexes = [
            models.Index("channel_type", name="workspace_channels_enabled", condition=Q(enabled=True)),
        ]

    def __str__(self) -> str:
        return f"{self.channel_type} of {self.workspace_id}"


class ChannelMessage(models.Model):
    """What was said in a channel, kept for a week: the work still to be done, the provider's repeats, and the
    context of a scheduled run.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="+", db_index=False)
    direction = models.TextField(choices=Direction)
    status = models.TextField(choices=Status)
    status_changed_at = models.DateTimeField(db_default=Now())
    delivery_key = models.TextField(null=True)  # the provider's own name of a message that came in
    chat_id = models.TextField(default="")
    thread = models.TextField(default="")
    username = models.TextField(default="")
    text = models.TextField()
    reply = models.TextField(null=True)  # what the agent answered
    error = models.TextField(null=True)
    attempts = models.IntegerField(default=0, db_default=0)
    lease_expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "channel_messages"
        constraints = [
            models.UniqueConstraint(
                fields=["channel", "delivery_key"], name="channel_messages_delivery_uniq"
            ),
            models.CheckConstraint(
                name="channel_messages_direction", condition=Q(direction__in=Direction.values)
            ),
            models.CheckConstraint(name="channel_messages_status", condition=Q(status__in=Status.values)),
            models.CheckConstraint(
                name="channel_messages_answered_has_reply",
                condition=~Q(status="answered") | Q(reply__isnull=False),
            ),
        ]
        indexes = [
            models.Index("channel", F("created_at").desc(), name="channel_messages_newest"),
            models.Index("created_at", name="channel_messages_age"),
            models.Index(
                "status_changed_at", name="channel_messages_open", condition=Q(status__in=UNFINISHED)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.direction} {self.status}"
