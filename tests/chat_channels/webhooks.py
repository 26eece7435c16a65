"""Deliveries as the four providers send and sign them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from itertools import count
from typing import Any

from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from django.test import Client

from tests.chat_channels.providers import SLACK_TOKEN, TELEGRAM_TOKEN

SECRETS = {"telegram": "telegram-secret", "slack": "slack-signing-secret", "lark": "lark-encrypt-key"}
LARK_TOKEN = "lark-verification-token"
DISCORD_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"discord").digest())
PUBLIC_KEY = DISCORD_KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
CONFIGS: dict[str, dict[str, str]] = {
    "telegram": {
        "bot_token": TELEGRAM_TOKEN,
        "chat_id": "-100",
        "webhook_secret": SECRETS["telegram"],
    },
    "slack": {"bot_token": SLACK_TOKEN, "chat_id": "C1", "webhook_secret": SECRETS["slack"]},
    "lark": {
        "webhook_url": "<provider>/hooks/lark",
        "chat_id": "oc_1",
        "webhook_secret": SECRETS["lark"],
        "verification_token": LARK_TOKEN,
    },
    "discord": {
        "webhook_url": "<provider>/discord/hook",
        "chat_id": "900",
        "public_key": PUBLIC_KEY.hex(),
    },
}
CHAT = {"telegram": "-100", "slack": "C1", "lark": "oc_1", "discord": "900"}
PROVIDERS = sorted(CONFIGS)
_numbers = count(1)

Headers = dict[str, str]


def said(channel_type: str, text: str = "hi", *, chat: str | None = None, user: str = "U1") -> Any:
    """What the provider sends when a person writes; each call is another message."""
    number, chat = next(_numbers), chat or CHAT[channel_type]
    match channel_type:
        case "telegram":
            sender = {"id": 77, "is_bot": False, "username": user}
            message = {"message_id": number, "from": sender, "chat": {"id": int(chat)}, "text": text}
            return {"update_id": number, "message": message}
        case "slack":
            event = {"type": "message", "channel": chat, "user": user, "text": text, "ts": f"1700.{number}"}
            return {"type": "event_callback", "event_id": f"Ev{number}", "event": event}
        case "lark":
            message = {
                "message_id": f"om_{number}",
                "chat_id": chat,
                "message_type": "text",
                "content": json.dumps({"text": f"@_user_1 {text}"}),
                "mentions": [{"key": "@_user_1"}],
            }
            event = {"sender": {"sender_id": {"open_id": user}, "sender_type": "user"}, "message": message}
            header = {"event_id": f"e{number}", "event_type": "im.message.receive_v1", "token": LARK_TOKEN}
            return {"schema": "2.0", "header": header, "event": event}
    option = {"name": "text", "type": 3, "value": text}
    return {
        "id": str(number),
        "type": 2,
        "channel_id": chat,
        "member": {"user": {"id": "77", "username": user}},
        "data": {"name": "ask", "options": [option]},
    }


def asks(channel_type: str) -> tuple[Any, dict[str, Any]]:
    """The question whether the address is right, and the answer to it."""
    match channel_type:
        case "slack":
            return {"type": "url_verification", "challenge": "c"}, {"challenge": "c"}
        case "lark":
            return {"type": "url_verification", "challenge": "c", "token": LARK_TOKEN}, {"challenge": "c"}
    return {"type": 1}, {"type": 1}


def signed(
    channel_type: str, value: Any, *, secret: str | None = None, at: float | None = None
) -> tuple[bytes, Headers]:
    """The body and the headers of a delivery; `secret` signs with another than the channel's."""
    stamp = str(int(at if at is not None else time.time()))
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    key = secret or SECRETS.get(channel_type, "")
    match channel_type:
        case "telegram":
            return body, {"X-Telegram-Bot-Api-Secret-Token": key}
        case "slack":
            digest = hmac.new(key.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256)
            return body, {
                "X-Slack-Request-Timestamp": stamp,
                "X-Slack-Signature": f"v0={digest.hexdigest()}",
            }
        case "lark":
            body = encrypted(body, key)
            digest_of = stamp.encode() + b"nonce" + key.encode() + body
            return body, {
                "X-Lark-Request-Timestamp": stamp,
                "X-Lark-Request-Nonce": "nonce",
                "X-Lark-Signature": hashlib.sha256(digest_of).hexdigest(),
            }
    private = DISCORD_KEY if secret is None else Ed25519PrivateKey.generate()
    signature = private.sign(stamp.encode() + body)
    return body, {"X-Signature-Timestamp": stamp, "X-Signature-Ed25519": signature.hex()}


def encrypted(body: bytes, key: str) -> bytes:
    padder = padding.PKCS7(128).padder()
    start = os.urandom(16)
    cipher = Cipher(AES(hashlib.sha256(key.encode()).digest()), CBC(start)).encryptor()
    data = start + cipher.update(padder.update(body) + padder.finalize()) + cipher.finalize()
    return json.dumps({"encrypt": base64.b64encode(data).decode()}).encode()


def post(channel_type: str, body: bytes, headers: Headers) -> Any:
    return Client(headers=headers).generic(
        "POST", f"/webhooks/{channel_type}", body, content_type="application/json"
    )


def deliver(channel_type: str, value: Any, **given: Any) -> Any:
    """The server's answer to a delivery."""
    return post(channel_type, *signed(channel_type, value, **given))
