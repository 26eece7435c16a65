"""An agent that can be called: records what arrives, answers what a test wants. Real HTTP on a real port."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OK = {"files": [{"uri": "workspace:/workspace/.molecule/chat-uploads/x-a.txt", "name": "a.txt"}]}


@dataclass
class Arrived:
    method: str
    path: str
    headers: dict[str, str]  # lower-case names
    body: bytes


@dataclass
class StubAgent:
    url: str = ""
    status: int = 200
    body: bytes = json.dumps(OK, separators=(",", ":")).encode()
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    pieces: Iterator[bytes] | None = None  # sent instead of `body`, however long
    length: int | None = None
    seen: list[Arrived] = field(default_factory=list)
    is_deaf: bool = False  # answers before it has read the body

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = b"" if self.is_deaf else b"".join(_body(handler, headers))
        self.seen.append(Arrived(handler.command, handler.path, headers, body))
        handler.send_response(self.status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(self.body) if self.length is None else self.length))
        if self.is_deaf:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        for piece in self.pieces if self.pieces is not None else [self.body]:
            handler.wfile.write(piece)


def _body(handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> Iterator[bytes]:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        yield handler.rfile.read(int(headers.get("content-length") or 0))
        return
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        yield handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)


@contextmanager
def stub_agent() -> Iterator[StubAgent]:
    agent = StubAgent()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            agent.serve(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    server = _Server(("127.0.0.1", 0), Handler)
    agent.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield agent
    finally:
        server.shutdown()
        server.server_close()
