"""The providers, by type and in the order in which they are shown."""

from __future__ import annotations

from chat_channels.adapters.base import Adapter
from chat_channels.adapters.discord import Discord
from chat_channels.adapters.lark import Lark
from chat_channels.adapters.slack import Slack
from chat_channels.adapters.telegram import Telegram

ADAPTERS: dict[str, Adapter] = {one.type.value: one for one in (Discord(), Lark(), Slack(), Telegram())}
