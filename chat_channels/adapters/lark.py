"""Lark and Feishu: a custom bot's webhook to write; events are encrypted and signed with the app's key."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from django.conf import settings

from chat_channels.adapters.base import (
    CHAT_ID,
    WEBHOOK_SECRET,
    WEBHOOK_URL,
    Adapter,
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

VERIFICATION_TOKEN = "verification_token"
_HOSTS = frozenset({"open.larksuite.com", "open.feishu.cn"})
_BLOCK = 16


class Lark(Adapter):
    type = ChannelType.LARK
    display_name = "Lark / Feishu"
    text_limit = 5000
    config_schema = (
        Field(
            WEBHOOK_URL,
            "Bot webhook",
            "password",
            True,
            True,
            "https://open.larksuite.com/open-apis/bot/v2/hook/…",
        ),
        Field(
            WEBHOOK_SECRET,
            "Encrypt key",
            "password",
            sensitive=True,
            help="To receive messages: from the app's Event Subscriptions.",
        ),
        Field(
            VERIFICATION_TOKEN,
            "Verification token",
            "password",
            sensitive=True,
            help="To receive messages: beside the encrypt key.",
        ),
        Field(CHAT_ID, "Chat IDs", "text", False, False, "oc_…", "Comma-separated; empty: every chat."),
    )

    def complaint(self, config: Config) -> str:
        if bool(config.get(WEBHOOK_SECRET)) != bool(config.get(VERIFICATION_TOKEN)):
            return "webhook_secret and verification_token are needed together"
        return bad_url(config, _HOSTS, settings.CHANNELS_LARK_API_URL)

    def verify(self, config: Config, delivery: Delivery) -> bool:
        secret = config.get(WEBHOOK_SECRET, "")
        signature = delivery.headers.get("x-lark-signature", "")
        if not secret:
            return False
        if not signature:
            return _is_handshake(config, delivery)
        stamp = delivery.headers.get("x-lark-request-timestamp", "")
        nonce = delivery.headers.get("x-lark-request-nonce", "")
        signed = f"{stamp}{nonce}{secret}".encode("utf-8", "surrogateescape") + delivery.body
        return is_recent(stamp, delivery.now) and is_same(signature, hashlib.sha256(signed).hexdigest())

    def parse(self, config: Config, delivery: Delivery) -> Incoming | Handshake | None:
        body = _opened(config, delivery.body)
        if body.get("type") == "url_verification":
            return Handshake({"challenge": text_in(body, "challenge")})
        if inner(body, "header").get("event_type") != "im.message.receive_v1":
            return None
        event = inner(body, "event")
        message, sender = inner(event, "message"), inner(event, "sender")
        text = _text(message)
        key, chat = text_in(message, "message_id"), text_in(message, "chat_id")
        if not (key and chat and text) or sender.get("sender_type") not in {None, "user"}:
            return None
        user = text_in(inner(sender, "sender_id"), "open_id", "user_id")
        return Incoming(key, chat, user, "", text)

    def send(self, config: Config, message: Outgoing) -> None:
        text = message.text.replace("<at", "<\u200bat")  # `<at user_id="all">` would call everybody
        body = {"msg_type": "text", "content": {"text": text}}
        answer = call("Lark", "POST", config[WEBHOOK_URL], json=body, until=message.until)
        code = answer.fields.get("code", answer.fields.get("StatusCode"))
        if not answer.is_success or code != 0:
            told = text_in(answer.fields, "msg", "StatusMessage") or answer.status
            raise NotTaken(f"Lark refused it: {told}")


def _is_handshake(config: Config, delivery: Delivery) -> bool:
    """The question about the address is the one delivery without a signature: it is encrypted, and holds the
    verification token. Nothing else is believed without a signature.
    """
    try:
        body = _opened(config, delivery.body)
    except BadRequest:
        return False
    expected = config.get(VERIFICATION_TOKEN, "")
    return body.get("type") == "url_verification" and is_same(text_in(body, "token"), expected)


def _opened(config: Config, body: bytes) -> Mapping[str, Any]:
    """The event inside `{"encrypt": …}`: AES-CBC under the SHA-256 of the key, its IV in front."""
    sealed = fields_of(body).get("encrypt")
    if not isinstance(sealed, str):
        raise BadRequest("invalid request body")
    try:
        data = base64.b64decode(sealed, validate=True)
        key = hashlib.sha256(config.get(WEBHOOK_SECRET, "").encode()).digest()
        decryptor = Cipher(AES(key), CBC(data[:_BLOCK])).decryptor()
        padded = decryptor.update(data[_BLOCK:]) + decryptor.finalize()
        unpadder = padding.PKCS7(_BLOCK * 8).unpadder()
        return fields_of(unpadder.update(padded) + unpadder.finalize())
    except (binascii.Error, ValueError):
        raise BadRequest("invalid request body") from None


def _text(message: Mapping[str, Any]) -> str:
    """The text of a text message, without the marks that stand for the bot's name."""
    if message.get("message_type") != "text":
        return ""
    try:
        text = text_in(fields_of(text_in(message, "content").encode("utf-8", "replace")), "text")
    except BadRequest:
        return ""
    mentions = message.get("mentions")
    for mention in mentions if isinstance(mentions, list) else []:
        if isinstance(mention, dict) and (key := text_in(mention, "key")):
            text = text.replace(key, "")
    return text.strip()
