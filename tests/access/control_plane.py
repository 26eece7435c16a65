"""A control plane and a canvas for tests: a real HTTP server that keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Upstream:
    """What it answers next, and what it was asked so far."""

    url: str = ""
    status: int = 200
    body: Any = field(default_factory=lambda: {"member": True, "user_id": "ada"})
    headers: list[tuple[str, str]] = field(default_factory=list)
    delay_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)

    def answers(self, status: int, body: Any = b"") -> None:
        self.status, self.body = status, body


@contextmanager
def serving() -> Iterator[Upstream]:
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            given = Asked(self.command, self.path, dict(self.headers.items()), self.rfile.read(size))
            upstream.asked.append(given)
            time.sleep(upstream.delay_s)
            body = upstream.body if isinstance(upstream.body, bytes) else json.dumps(upstream.body).encode()
            self.send_response(upstream.status)
            for name, value in upstream.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    upstream.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        server.server_close()
