"""Slack: the Web API or an incoming webhook; events are signed with the app's signing secret."""

from __future__ import annotations

import hashlib
import hmac
import re

from django.conf import settings

from chat_channels.adapters.base import (
    BOT_TOKEN,
    CHAT_ID,
    WEBHOOK_SECRET,
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
    fields_of,
    inner,
    is_recent,
    is_same,
    text_in,
)
from chat_channels.models import ChannelType
from chat_channels.wire import NotTaken, call
from config.errors import BadRequest

_HOSTS = frozenset({"hooks.slack.com"})
_TOKEN = re.compile(r"[!-~]{1,500}")  # it becomes a header
_MENTION = re.compile(r"^\s*<@[A-Z0-9]+>\s*")
_BAD_TOKEN = frozenset({"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"})


class Slack(Adapter):
    type = ChannelType.SLACK
    display_name = "Slack"
    text_limit = 4000
    hint = "Invite the bot to a channel (/invite) to write there. The bot needs channels:read."
    config_schema = (
        Field(BOT_TOKEN, "Bot token", "password", False, True, "xoxb-…", "With chat:write; or a webhook."),
        Field(CHAT_ID, "Channel IDs", "text", False, False, "C0123456789", "Comma-separated."),
        Field(WEBHOOK_URL, "Incoming webhook", "password", False, True, "https://hooks.slack.com/services/…"),
        Field(
            WEBHOOK_SECRET,
            "Signing secret",
            "password",
            sensitive=True,
            help="To receive messages: from the app's Basic Information.",
        ),
    )

    def complaint(self, config: Config) -> str:
        if config.get(BOT_TOKEN):
            if not config.get(CHAT_ID):
                return f"missing required field: {CHAT_ID}"
            if not _TOKEN.fullmatch(config[BOT_TOKEN]):
                return "bot_token has characters that a token does not have"
        elif not config.get(WEBHOOK_URL):
            return "needs a bot_token with a chat_id, or a webhook_url"
        return bad_url(config, _HOSTS, settings.CHANNELS_SLACK_API_URL)

    def verify(self, config: Config, delivery: Delivery) -> bool:
        secret = config.get(WEBHOOK_SECRET, "")
        stamp = delivery.headers.get("x-slack-request-timestamp", "")
        if not secret or not is_recent(stamp, delivery.now):
            return False
        signed = b"v0:" + stamp.encode() + b":" + delivery.body
        expected = "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        return is_same(delivery.headers.get("x-slack-signature", ""), expected)

    def parse(self, config: Config, delivery: Delivery) -> Incoming | Handshake | None:
        body = fields_of(delivery.body)
        if body.get("type") == "url_verification":
            return Handshake({"challenge": text_in(body, "challenge")})
        event = inner(body, "event")
        is_said = event.get("type") in {"message", "app_mention"} and not event.get("subtype")
        chat, stamp = text_in(event, "channel"), text_in(event, "ts")
        text = _MENTION.sub("", text_in(event, "text")).strip()
        if not (is_said and chat and stamp and text) or event.get("bot_id") or not event.get("user"):
            return None
        return Incoming(
            key=f"{chat}:{stamp}",  # a mention is told twice, as two events about one message
            chat_id=chat,
            user_id=text_in(event, "user"),
            username="",
            text=_plain(text),
            thread=text_in(event, "thread_ts"),
        )

    def send(self, config: Config, message: Outgoing) -> None:
        body = {"text": _escaped(message.text)}
        if message.thread:
            body["thread_ts"] = message.thread
        token = config.get(BOT_TOKEN)
        if not token:
            answer = call("Slack", "POST", config[WEBHOOK_URL], json=body, until=message.until)
            if not answer.is_success:
                raise NotTaken(f"Slack refused it: {answer.status}")
            return
        url = f"{settings.CHANNELS_SLACK_API_URL}/chat.postMessage"
        headers = {"Authorization": f"Bearer {token}"}
        given = {"channel": message.chat_id, **body}
        answer = call("Slack", "POST", url, json=given, headers=headers, until=message.until)
        if answer.fields.get("ok") is not True:
            raise NotTaken(f"Slack refused it: {text_in(answer.fields, 'error') or answer.status}")

    def discover(self, bot_token: str) -> list[Chat]:
        if not _TOKEN.fullmatch(bot_token):
            raise BadRequest("the bot token was not accepted")
        query = "types=public_channel,private_channel&exclude_archived=true&limit=200"
        url = f"{settings.CHANNELS_SLACK_API_URL}/conversations.list?{query}"
        answer = call("Slack", "GET", url, headers={"Authorization": f"Bearer {bot_token}"})
        if answer.fields.get("ok") is not True:
            error = text_in(answer.fields, "error")
            if error in _BAD_TOKEN:
                raise BadRequest("the bot token was not accepted")
            raise NotTaken(f"Slack refused it: {error or answer.status}")
        rows = answer.fields.get("channels")
        return [
            Chat(
                text_in(row, "id"),
                text_in(row, "name"),
                "private_channel" if row.get("is_private") else "public_channel",
            )
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict) and text_in(row, "id")
        ]


def _escaped(text: str) -> str:
    """Slack reads `<!channel>` in a text as a call to everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
