"""A memory plugin of somebody else: flat storage, no capability, ids of its own; it can be told to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class StubPlugin:
    """`calls` are (method, path); `fail` the answer to everything; `delay_s` is before each."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.records: dict[str, dict[str, Any]] = {}
        self.namespaces: set[str] = set()
        self.capabilities: list[str] | None = None
        self.version = "1.0.0"
        self.fail: tuple[int, bytes] | None = None
        self.delay_s = 0.0
        self.filters = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, *methods_and_starts: str) -> int:
        method, start = methods_and_starts
        return sum(one == method and path.startswith(start) for one, path in self.calls)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.split("/")[2:]]
        match method, parts:
            case "GET", ["health"]:
                known = {"status": "ok", "version": self.version, "capabilities": self.capabilities}
                return 200, known
            case "PUT", ["namespaces", name]:
                self.namespaces.add(name)
                return 200, {"name": name, "kind": body["kind"], "created_at": "2026-01-01T00:00:00Z"}
            case "DELETE", ["namespaces", name]:
                if name not in self.namespaces:
                    return 404, {"code": "not_found", "message": "namespace not found"}
                self.namespaces.remove(name)
                self.records = {k: v for k, v in self.records.items() if v["namespace"] != name}
                return 204, None
            case "POST", ["namespaces", name, "memories"]:
                if name not in self.namespaces:
                    return 404, {"code": "not_found", "message": "namespace not found"}
                memory_id = body.get("id") or f"mem/{len(self.records)}"
                kept = {key: body[key] for key in ("content", "kind", "source")}
                kept |= {"id": memory_id, "namespace": name, "created_at": "2026-01-01T00:00:00Z"}
                self.records[memory_id] = kept
                return 201, {"id": memory_id, "namespace": name}
            case "POST", ["search"]:
                wanted = [
                    one
                    for one in self.records.values()
                    if not self.filters or one["namespace"] in body["namespaces"]
                ]
                return 200, {"memories": wanted[: body.get("limit") or 20]}
            case "DELETE", ["memories", memory_id]:
                one = self.records.get(memory_id)
                if one is None or one["namespace"] != body["requested_by_namespace"]:
                    return 404, {"code": "not_found", "message": "memory not found"}
                del self.records[memory_id]
                return 204, None
        return 404, {"code": "not_found", "message": "no route"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                path = urlsplit(self.path).path
                stub.calls.append((self.command, path))
                time.sleep(stub.delay_s)
                status, answer = stub.fail or stub.answer(self.command, path, body)
                told = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", "0" if status == 204 else str(len(told)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(told)

            do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        return Handler


@contextmanager
def stub_plugin() -> Iterator[StubPlugin]:
    stub = StubPlugin()
    try:
        yield stub
    finally:
        stub.end()
