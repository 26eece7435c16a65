"""Which chats a bot can write to, asked of its provider. Source: docs/reference/chat_channels.md."""

from __future__ import annotations

from uuid import UUID

from chat_channels.adapters.base import BOT_TOKEN, Chat
from chat_channels.models import Channel
from chat_channels.sealing import MASK
from chat_channels.services.registry import adapter_of, opened
from chat_channels.services.sending import without_secrets
from chat_channels.wire import NotTaken
from config.errors import BadRequest


def discover_chats(*, workspace_id: UUID, channel_type: str, bot_token: str) -> tuple[list[Chat], str]:
    """(the chats, a hint for the person). A masked token is the one that the workspace's channel has.

    Raises BadRequest (unknown provider, token refused), NotTaken.
    """
    adapter = adapter_of(channel_type)
    if bot_token == MASK:
        row = Channel.objects.filter(workspace_id=workspace_id, channel_type=channel_type).first()
        bot_token = opened(row).get(BOT_TOKEN, "") if row else ""
    if not bot_token:
        raise BadRequest("bot_token is required")
    try:
        return adapter.discover(bot_token), adapter.hint
    except NotTaken as error:
        said = without_secrets(error.text, adapter, {BOT_TOKEN: bot_token})
        raise NotTaken(said, is_certain=error.is_certain) from None
