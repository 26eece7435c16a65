"""Telegram: the Bot API. Updates carry the secret token that was given to `setWebhook`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from chat_channels.adapters.base import (
    BOT_TOKEN,
    CHAT_ID,
    WEBHOOK_SECRET,
    Adapter,
    Chat,
    Config,
    Delivery,
    Field,
    Handshake,
    Incoming,
    Outgoing,
    chats_of,
    fields_of,
    inner,
    is_same,
    text_in,
)
from chat_channels.models import ChannelType
from chat_channels.wire import Answer, NotTaken, call
from config.errors import BadRequest

_TOKEN = re.compile(r"[A-Za-z0-9:_-]{1,200}")  # it becomes part of a path
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}")  # what setWebhook accepts
_CHAT = re.compile(r"-?\d{1,20}|@\w{1,64}")
_REFUSED_TOKEN = frozenset({401, 404})


class Telegram(Adapter):
    type = ChannelType.TELEGRAM
    display_name = "Telegram"
    text_limit = 4096
    hint = "Write to the bot, or add it to the group, and look again. A bot with a webhook tells no chats."
    config_schema = (
        Field(BOT_TOKEN, "Bot token", "password", True, True, "123456:ABC-DEF", "From @BotFather."),
        Field(CHAT_ID, "Chat IDs", "text", True, False, "-1001234567890", "Comma-separated."),
        Field(
            WEBHOOK_SECRET,
            "Webhook secret",
            "password",
            sensitive=True,
            help="To receive messages: the `secret_token` that setWebhook was given.",
        ),
    )

    def complaint(self, config: Config) -> str:
        if not _TOKEN.fullmatch(config[BOT_TOKEN]):
            return "bot_token has characters that a token does not have"
        if not all(_CHAT.fullmatch(one) for one in chats_of(config)):
            return "chat_id must be numbers or @names, separated by commas"
        secret = config.get(WEBHOOK_SECRET, "")
        return "" if not secret or _SECRET.fullmatch(secret) else "webhook_secret may hold A-Z a-z 0-9 _ -"

    def verify(self, config: Config, delivery: Delivery) -> bool:
        given = delivery.headers.get("x-telegram-bot-api-secret-token", "")
        return is_same(given, config.get(WEBHOOK_SECRET, ""))

    def parse(self, config: Config, delivery: Delivery) -> Incoming | Handshake | None:
        update = fields_of(delivery.body)
        message = inner(update, "message") or inner(update, "channel_post")
        sender = inner(message, "from")
        text = text_in(message, "text", "caption")
        key, chat = text_in(update, "update_id"), text_in(inner(message, "chat"), "id")
        if not (key and chat and text) or sender.get("is_bot") is True:
            return None
        return Incoming(
            key=key,
            chat_id=chat,
            user_id=text_in(sender, "id"),
            username=text_in(sender, "username"),
            name=text_in(sender, "first_name"),
            text=text,
            thread=text_in(message, "message_thread_id") if message.get("is_topic_message") else "",
        )

    def send(self, config: Config, message: Outgoing) -> None:
        body: dict[str, Any] = {"chat_id": message.chat_id, "text": message.text}
        if message.thread.isdecimal():
            body["message_thread_id"] = int(message.thread)
        answer = _asked(config[BOT_TOKEN], "sendMessage", body, message.until)
        if answer.fields.get("ok") is not True:
            raise NotTaken(_refusal(answer))

    def discover(self, bot_token: str) -> list[Chat]:
        if not _TOKEN.fullmatch(bot_token):
            raise BadRequest("the bot token was not accepted")
        answer = _asked(bot_token, "getUpdates", {"limit": 100})
        if answer.status in _REFUSED_TOKEN:
            raise BadRequest("the bot token was not accepted")
        if answer.status == 409:  # the bot has a webhook: its updates go there
            return []
        updates = answer.fields.get("result")
        if answer.fields.get("ok") is not True or not isinstance(updates, list):
            raise NotTaken(_refusal(answer))
        found = (_chat(update) for update in updates)
        return list({chat.chat_id: chat for chat in found if chat is not None}.values())


def _asked(token: str, method: str, body: Mapping[str, Any], until: float | None = None) -> Answer:
    url = f"{settings.CHANNELS_TELEGRAM_API_URL}/bot{token}/{method}"
    return call("Telegram", "POST", url, json=body, until=until)


def _refusal(answer: Answer) -> str:
    return f"Telegram refused it: {text_in(answer.fields, 'description') or answer.status}"


def _chat(update: Any) -> Chat | None:
    kinds = ("message", "edited_message", "channel_post", "my_chat_member")
    chat = next((found for kind in kinds if (found := inner(update, kind, "chat"))), {})
    chat_id = text_in(chat, "id")
    name = text_in(chat, "title", "username", "first_name") or chat_id
    return Chat(chat_id, name, text_in(chat, "type")) if chat_id else None
