"""A small image registry: a token endpoint, manifests by HEAD, digests that move, and failures on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-for-one-repository"


class Registry:
    """`digests` by repository and reference (`org/workspace-template-codex:latest`). `answers` replaces the
    status of everything but tokens; `wants_token` asks for one first, at `realm`.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.digests: dict[str, str] = {}
        self.asked: list[dict[str, str]] = []  # requests for manifests: path, and the headers they came with
        self.tokens: list[dict[str, list[str]]] = []  # queries of the token endpoint
        self.accounts: list[str] = []  # what came with them
        self.answers: int | None = None
        self.wants_token = True
        self.realm = f"http://{host}/token"

    def put(self, runtime: str, mark: str, *, prefix: str = "org") -> str:
        """Move the runtime's image; returns the digest."""
        digest = f"sha256:{mark * 64}"
        self.digests[f"{prefix}/workspace-template-{runtime}:latest"] = digest
        return digest


class _Handler(BaseHTTPRequestHandler):
    registry: Registry

    def do_HEAD(self) -> None:
        registry = self.registry
        registry.asked.append({"path": self.path, **dict(self.headers)})
        if registry.answers is not None:
            return self._answer(registry.answers)
        if registry.wants_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="{registry.realm}",service="registry"'
            return self._answer(401, {"WWW-Authenticate": challenge})
        name, _, reference = self.path.removeprefix("/v2/").partition("/manifests/")
        known = {digest for key, digest in registry.digests.items() if key.startswith(f"{name}:")}
        digest = registry.digests.get(f"{name}:{reference}") or (reference if reference in known else None)
        return self._answer(200, {"Docker-Content-Digest": digest}) if digest else self._answer(404)

    def do_GET(self) -> None:
        self.registry.tokens.append(parse_qs(urlsplit(self.path).query))
        self.registry.accounts.append(self.headers.get("Authorization", ""))
        self._answer(200, {}, json.dumps({"token": TOKEN}).encode())

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def running_registry() -> Iterator[Registry]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    registry = Registry(f"127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"registry": registry})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
