"""A run of a schedule knows what was said in the channels, and its answer is posted there."""

from __future__ import annotations

import pytest

from chat_channels.models import ChannelMessage
from schedules import hooks
from tests.chat_channels.conftest import Make
from tests.chat_channels.providers import Provider
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db


def test_the_rooms_are_connected(make: Make, provider: Provider):
    row = WorkspaceFactory()
    channel = make(row, "telegram")
    ChannelMessage.objects.create(channel=channel, direction="inbound", status="done", text="what is new?")
    before = [hook(row.pk) for hook in hooks.recent_context]
    assert len(before) == 1
    assert "what is new?" in before[0]
    for hook in hooks.answered:
        hook(row.pk, "nothing is new")
    assert provider.texts == ["nothing is new"]
