"""The verbs over channels; nothing else writes their tables."""

from chat_channels.manager import reload_manager
from chat_channels.services.context import recent_context
from chat_channels.services.delivering import deliver
from chat_channels.services.discovering import discover_chats
from chat_channels.services.receiving import receive
from chat_channels.services.registry import (
    NewChannel,
    SealingFailed,
    create_channel,
    delete_channel,
    not_as_stored,
    reseal_channels,
    update_channel,
    upsert_channels,
    valid_config,
)
from chat_channels.services.sending import post_to_channels, send_message, send_test
from chat_channels.services.sweeping import sweep

__all__ = [
    "NewChannel",
    "SealingFailed",
    "create_channel",
    "delete_channel",
    "deliver",
    "discover_chats",
    "not_as_stored",
    "post_to_channels",
    "receive",
    "recent_context",
    "reload_manager",
    "reseal_channels",
    "send_message",
    "send_test",
    "sweep",
    "update_channel",
    "upsert_channels",
    "valid_config",
]
