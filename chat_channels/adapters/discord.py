"""Discord: a bot or a webhook to write; people write to the agent with an application command.

Interactions are signed with the application's Ed25519 key.
"""

from __future__ import annotations

import re
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings

from chat_channels.adapters.base import (
    BOT_TOKEN,
    CHAT_ID,
    WEBHOOK_URL,
    Adapter,
    Chat,
    Config,
    Delivery,
    Field,
    Handshake,
    Incoming,
    Outgoing,
    bad_url,
    chats_of,
    fields_of,
    inner,
    is_recent,
    text_in,
)
from chat_channels.models import ChannelType
from chat_channels.wire import Answer, NotTaken, call
from config.errors import BadRequest

PUBLIC_KEY = "public_key"
_HOSTS = frozenset({"discord.com", "discordapp.com", "canary.discord.com", "ptb.discord.com"})
_TOKEN = re.compile(r"[!-~]{1,500}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"[0-9a-fA-F]{128}")
_PING, _COMMAND = 1, 2
_PONG, _SAID = 1, 4
_ONLY_TO_THE_ASKER = 64
_MOST_GUILDS = 5
_TEXT_CHANNELS = {0: "text", 5: "announcement"}
_TOLD = {
    "accepted": "Passed on to the agent.",
    "ignored": "The agent takes no messages from you.",
    "no_channel": "No agent listens in this channel.",
}


class Discord(Adapter):
    type = ChannelType.DISCORD
    display_name = "Discord"
    text_limit = 2000
    hint = "Text channels of the servers that the bot was added to."
    is_key_public = True
    config_schema = (
        Field(WEBHOOK_URL, "Webhook", "password", False, True, "https://discord.com/api/webhooks/…"),
        Field(BOT_TOKEN, "Bot token", "password", False, True, help="Instead of the webhook."),
        Field(CHAT_ID, "Channel IDs", "text", False, False, "1234567890", "Comma-separated."),
        Field(
            PUBLIC_KEY,
            "Public key",
            placeholder="64 hexadecimal digits",
            help="To receive commands: from the application's General Information.",
        ),
    )

    def complaint(self, config: Config) -> str:
        if config.get(BOT_TOKEN):
            if not config.get(CHAT_ID):
                return f"missing required field: {CHAT_ID}"
            if not _TOKEN.fullmatch(config[BOT_TOKEN]):
                return "bot_token has characters that a token does not have"
        elif not config.get(WEBHOOK_URL):
            return "needs a webhook_url, or a bot_token with a chat_id"
        if not all(one.isdecimal() for one in chats_of(config)):
            return "chat_id must be numbers, separated by commas"
        key = config.get(PUBLIC_KEY, "")
        if key and not _KEY.fullmatch(key):
            return "public_key must be 64 hexadecimal digits"
        return bad_url(config, _HOSTS, settings.CHANNELS_DISCORD_API_URL)

    def verify(self, config: Config, delivery: Delivery) -> bool:
        key, signature = config.get(PUBLIC_KEY, ""), delivery.headers.get("x-signature-ed25519", "")
        stamp = delivery.headers.get("x-signature-timestamp", "")
        if not (_KEY.fullmatch(key) and _SIGNATURE.fullmatch(signature) and is_recent(stamp, delivery.now)):
            return False
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            public.verify(bytes.fromhex(signature), stamp.encode() + delivery.body)
        except (InvalidSignature, ValueError):
            return False
        return True

    def parse(self, config: Config, delivery: Delivery) -> Incoming | Handshake | None:
        body = fields_of(delivery.body)
        if body.get("type") == _PING:
            return Handshake({"type": _PONG})
        user = inner(body, "member", "user") or inner(body, "user")
        key, chat = text_in(body, "id"), text_in(body, "channel_id")
        text = "\n".join(_texts(inner(body, "data").get("options"))).strip()
        if body.get("type") != _COMMAND or not (key and chat and text):
            return None
        return Incoming(
            key, chat, text_in(user, "id"), text_in(user, "username"), text, text_in(user, "global_name")
        )

    def send(self, config: Config, message: Outgoing) -> None:
        body = {"content": message.text, "allowed_mentions": {"parse": []}}  # an agent calls nobody together
        token = config.get(BOT_TOKEN)
        if token:
            url = f"{settings.CHANNELS_DISCORD_API_URL}/channels/{message.chat_id}/messages"
            headers = {"Authorization": f"Bot {token}"}
            answer = call("Discord", "POST", url, json=body, headers=headers, until=message.until)
        else:
            answer = call("Discord", "POST", config[WEBHOOK_URL], json=body, until=message.until)
        if not answer.is_success:
            raise NotTaken(_refusal(answer))

    def discover(self, bot_token: str) -> list[Chat]:
        if not _TOKEN.fullmatch(bot_token):
            raise BadRequest("the bot token was not accepted")
        found: list[Chat] = []
        for guild in _list(_asked(bot_token, "/users/@me/guilds"))[:_MOST_GUILDS]:
            if not text_in(guild, "id").isdecimal():
                continue
            for row in _list(_asked(bot_token, f"/guilds/{text_in(guild, 'id')}/channels")):
                if row.get("type") in _TEXT_CHANNELS:
                    name = f"{text_in(guild, 'name')} #{text_in(row, 'name')}"
                    found.append(Chat(text_in(row, "id"), name, _TEXT_CHANNELS[row["type"]]))
        return found

    def acknowledgement(self, outcome: str) -> dict[str, Any]:
        """Discord shows the person an error unless it reads what to say."""
        said = {"content": _TOLD[outcome], "flags": _ONLY_TO_THE_ASKER}
        return {"status": outcome, "type": _SAID, "data": said}


def _texts(options: Any) -> list[str]:
    """What the person typed into the command's fields, those of a subcommand too."""
    found: list[str] = []
    for option in options if isinstance(options, list) else []:
        if isinstance(option, dict):
            value = option.get("value")
            found += [value] if isinstance(value, str) else _texts(option.get("options"))
    return found


def _asked(token: str, path: str) -> Answer:
    url = f"{settings.CHANNELS_DISCORD_API_URL}{path}"
    return call("Discord", "GET", url, headers={"Authorization": f"Bot {token}"})


def _list(answer: Answer) -> list[dict[str, Any]]:
    if answer.status == 401:
        raise BadRequest("the bot token was not accepted")
    if not answer.is_success or not isinstance(answer.body, list):
        raise NotTaken(_refusal(answer))
    return [row for row in answer.body if isinstance(row, dict)]


def _refusal(answer: Answer) -> str:
    return f"Discord refused it: {text_in(answer.fields, 'message') or answer.status}"
