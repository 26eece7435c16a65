"""A chat provider that really listens and behaves like the four: one server, their paths, their answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TELEGRAM_TOKEN = "123456:telegram-token"
SLACK_TOKEN = "xoxb-slack-token"
DISCORD_TOKEN = "discord-token"
CHATS = {"-100", "-200", "C1", "C2", "900"}


@dataclass
class Post:
    """A message that the provider has taken."""

    chat: str
    text: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class Provider:
    """`posts` is what was said, `asked` every request. The next `fails` requests are refused; `hangs` holds
    every answer until it is set; `drips` breaks every answer off.
    """

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    has_webhook: bool = False
    hangs: threading.Event | None = None
    fails: int = 0
    drips: bool = False

    @property
    def texts(self) -> list[str]:
        return [one.text for one in self.posts]

    def answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        match path.strip("/").split("/"):
            case [bot, method] if bot.startswith("bot"):
                return self._telegram(bot.removeprefix("bot"), method, body, headers)
            case ["slack" | "discord", "hook"]:
                return self._hook("hook", body, headers)
            case ["slack", method]:
                return self._slack(method.partition("?")[0], body, headers)
            case ["hooks", name]:
                return self._hook(name, body, headers)
            case ["discord", *rest]:
                return self._discord(rest, body, headers)
        return 404, {"error": "no such path"}

    def _said(self, chat: str, text: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.posts.append(Post(chat, text, body, headers))

    def _telegram(self, token: str, method: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        if token != TELEGRAM_TOKEN:
            return 401, {"ok": False, "error_code": 401, "description": "Unauthorized"}
        if method == "getUpdates":
            if self.has_webhook:
                return 409, {"ok": False, "error_code": 409, "description": "Conflict: webhook is active"}
            return 200, {"ok": True, "result": self.updates}
        if str(body["chat_id"]) not in CHATS:
            return 400, {"ok": False, "error_code": 400, "description": "Bad Request: chat not found"}
        if len(body["text"].encode("utf-16-le")) // 2 > 4096:
            return 400, {"ok": False, "error_code": 400, "description": "Bad Request: message is too long"}
        self._said(str(body["chat_id"]), body["text"], body, headers)
        return 200, {"ok": True, "result": {"message_id": len(self.posts)}}

    def _slack(self, method: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        if headers.get("authorization") != f"Bearer {SLACK_TOKEN}":
            return 200, {"ok": False, "error": "invalid_auth"}
        if method == "conversations.list":
            rows = [{"id": "C1", "name": "general"}, {"id": "C2", "name": "team", "is_private": True}]
            return 200, {"ok": True, "channels": rows}
        if body["channel"] not in CHATS:
            return 200, {"ok": False, "error": "channel_not_found"}
        self._said(body["channel"], body["text"], body, headers)
        return 200, {"ok": True, "ts": "1.2"}

    def _hook(self, name: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        text = body.get("text") or body.get("content")
        self._said(name, text["text"] if isinstance(text, dict) else text, body, headers)
        return 200, {"code": 0, "msg": "success"} if name == "lark" else None

    def _discord(self, rest: list[str], body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        if headers.get("authorization") != f"Bot {DISCORD_TOKEN}":
            return 401, {"message": "401: Unauthorized", "code": 0}
        match rest:
            case ["users", "@me", "guilds"]:
                return 200, [{"id": "7", "name": "Guild"}]
            case ["guilds", "7", "channels"]:
                rows = [(900, "general", 0), (901, "voice", 2), (902, "news", 5)]
                return 200, [{"id": str(one), "name": name, "type": kind} for one, name, kind in rows]
            case ["channels", chat, "messages"] if chat in CHATS:
                self._said(chat, body["content"], body, headers)
                return 200, {"id": "1"}
        return 404, {"message": "Unknown Channel", "code": 10003}


@contextmanager
def serving() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            provider.asked.append(f"{self.command} {self.path}")
            if provider.hangs is not None:
                provider.hangs.wait(30)
            if provider.fails:
                provider.fails -= 1
                status, body = 503, {"ok": False, "description": "overloaded", "error": "overloaded"}
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, body = provider.answer(self.path, json.loads(given or b"{}"), headers)
            data = b"ok" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) + (9 if provider.drips else 0)))
            self.end_headers()
            self.wfile.write(data)
            if provider.drips:  # the rest never comes
                self.wfile.flush()
                self.close_connection = True

        do_GET = do_POST = _any

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield provider
    finally:
        if provider.hangs is not None:
            provider.hangs.set()
        server.shutdown()
        server.server_close()
