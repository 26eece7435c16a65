"""A control plane in one file: real HTTP, the agent-facing routes, and answers a test can script."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

WORKSPACE = "11111111-2222-4333-8444-555555555555"
PEER = "99999999-8888-4777-8666-555555555555"
TOKEN = "token-of-the-workspace-0123456789abcdefghijk"
SECRET = "inbound-secret-0123456789abcdefghijklmnopqr"
DEADLINE_S = 8.0


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names
    body: Any


@dataclass(frozen=True)
class Scripted:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class FakePlatform:
    """Knows one workspace. `scripted[path]` answers first, once per entry; then the routes do as usual."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.rows: list[dict[str, Any]] = []
        self.seen: list[Seen] = []
        self.scripted: dict[str, deque[Scripted]] = {}
        self.always: dict[str, Scripted] = {}
        self.hands_over: dict[str, str] = {}  # added to register and heartbeat answers
        self.lost_cursors: set[str] = set()
        self.files: dict[str, bytes] = {}  # staged, by id
        self.acked: list[str] = []
        self.delays_s: dict[str, float] = {}  # by the end of the path
        self.connections: set[tuple[str, int]] = set()  # that asked for files
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def script(self, path: str, *answers: Scripted) -> None:
        self.scripted.setdefault(path, deque()).extend(answers)

    def add_message(self, text: str, *, source_id: str | None = None, **changes: Any) -> str:
        """Put a `message/send` row into the inbox; return its id."""
        message = {"role": "user", "messageId": str(uuid4()), "parts": [{"kind": "text", "text": text}]}
        message.update(changes.pop("message", {}))
        row = {
            "id": str(uuid4()),
            "seq": len(self.rows) + 1,
            "workspace_id": WORKSPACE,
            "activity_type": "a2a_receive",
            "source_id": source_id,
            "target_id": WORKSPACE,
            "method": "message/send",
            "summary": "message/send",
            "request_body": {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "message/send",
                "params": {"message": message},
            },
            "status": "ok",
        } | changes
        with self._lock:
            self.rows.append(row)
        return str(row["id"])

    def add_file(self, data: bytes, name: str = "a.txt", **changes: Any) -> str:
        """Stage a file and put its row into the inbox; return the file's id."""
        file_id = str(uuid4())
        uri = f"platform-pending:{WORKSPACE}/{file_id}"
        body = {"file_id": file_id, "name": name, "mimeType": "text/plain", "size": len(data), "uri": uri}
        self.files[file_id] = data
        self.add_message("", method="chat_upload_receive", request_body=body | changes)
        return file_id

    def calls(self, suffix: str) -> list[Seen]:
        with self._lock:
            return [seen for seen in self.seen if seen.path.endswith(suffix)]

    def wait_for_calls(self, suffix: str, count: int = 1) -> list[Seen]:
        until(lambda: len(self.calls(suffix)) >= count, f"{count} call(s) of {suffix}")
        return self.calls(suffix)

    def notified(self) -> list[str]:
        return [seen.body["message"] for seen in self.calls("/notify")]

    def answer(self, seen: Seen, client: tuple[str, int]) -> Scripted:
        is_file = seen.path.endswith("/content")
        with self._lock:
            self.at_once += is_file
            self.most_at_once = max(self.most_at_once, self.at_once)
            if "/pending-uploads/" in seen.path:
                self.connections.add(client)
        for suffix, seconds in self.delays_s.items():
            if seen.path.endswith(suffix):
                time.sleep(seconds)
        with self._lock:
            self.at_once -= is_file
            self.seen.append(seen)
            if self.scripted.get(seen.path):
                return self.scripted[seen.path].popleft()
            if seen.path in self.always:
                return self.always[seen.path]
            return self._route(seen)

    def _route(self, seen: Seen) -> Scripted:
        own = f"/workspaces/{WORKSPACE}"
        if seen.path == f"{own}/state":
            return Scripted(
                200, {"workspace_id": WORKSPACE, "status": "online", "paused": False, "deleted": False}
            )
        if seen.headers.get("authorization") != f"Bearer {self.token}":
            return Scripted(401, {"error": "invalid workspace auth token"})
        if seen.path == "/registry/register":
            mode = seen.body.get("delivery_mode", "push")
            return Scripted(200, {"status": "registered", "delivery_mode": mode, **self.hands_over})
        if seen.path == "/registry/heartbeat":
            return Scripted(200, {"status": "ok", **self.hands_over})
        if seen.path == f"{own}/activity":
            return self._activity(seen.query)
        if seen.path == f"{own}/activity/ack":
            return Scripted(200, {"last_acked_seq": seen.body["acked_seq"]})
        if seen.path == f"{own}/notify":
            return Scripted(200, {"status": "sent"})
        if seen.path.startswith(f"{own}/pending-uploads"):
            return self._pending(seen.path.removeprefix(f"{own}/pending-uploads").strip("/"))
        if seen.path == f"/workspaces/{PEER}/a2a":
            return Scripted(200, {"status": "queued", "delivery_mode": "poll", "method": "message/send"})
        return Scripted(404, {"error": "not found"})

    def _pending(self, path: str) -> Scripted:
        if not path:
            bodies = [row["request_body"] for row in self.rows if row["method"] == "chat_upload_receive"]
            return Scripted(200, {"files": [one for one in bodies if one["file_id"] not in self.acked]})
        file_id, _, what = path.partition("/")
        if file_id not in self.files or (what == "content" and file_id in self.acked):
            return Scripted(404, {"error": "pending upload not found"})
        if what == "ack":
            self.acked.append(file_id)
            return Scripted(200, {"acked": True})
        return Scripted(200, self.files[file_id])

    def _activity(self, query: dict[str, str]) -> Scripted:
        rows = [row for row in self.rows if row["activity_type"] == query.get("type")]
        limit = int(query.get("limit", "100"))
        cursor = query.get("since_id")
        if cursor is None:
            return Scripted(200, rows[::-1][:limit])
        ids = [row["id"] for row in rows]
        if cursor not in ids or cursor in self.lost_cursors:
            return Scripted(410, {"error": "since_id cursor not found; omit since_id to reset"})
        return Scripted(200, rows[ids.index(cursor) + 1 :][:limit])


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # agents get killed in the middle of a call
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(platform: FakePlatform) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = platform.answer(
                Seen(self.command, parts.path, query, headers, json.loads(raw) if raw else None),
                self.client_address,
            )
            raw = answer.body if isinstance(answer.body, bytes) else b""
            if answer.body is not None and not raw:
                raw = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
