"""A small HTTP agent that really listens and behaves as a test tells it to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from workspaces.models import UrlSource

Behaviour = Callable[["Exchange"], None]


@dataclass
class Seen:
    headers: dict[str, str]
    body: Any

    @property
    def message(self) -> dict[str, Any]:
        return dict(self.body["params"]["message"])

    @property
    def text(self) -> str:
        return str(self.message["parts"][0]["text"])


@dataclass
class Exchange:
    """One request, as a behaviour answers it."""

    handler: BaseHTTPRequestHandler
    seen: Seen
    agent: FakeAgent

    def send(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(data)))
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def hang_up(self) -> None:
        self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.close_connection = True


@dataclass
class FakeAgent:
    """`behaves` with each request in turn, the last one for ever; `requests` is what it was asked."""

    behaviours: list[Behaviour] = field(default_factory=lambda: [echo])
    requests: list[Seen] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        agent = self
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen = Seen({name.lower(): value for name, value in self.headers.items()}, json.loads(body))
                with lock:
                    agent.requests.append(seen)
                    behaviours = agent.behaviours
                    behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
                try:
                    behaviour(Exchange(self, seen, agent))
                except OSError:
                    pass  # the caller has gone

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def behaves(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)

    @property
    def place(self) -> dict[str, Any]:
        """What makes a workspace this agent's."""
        return {"url": self.url, "url_source": UrlSource.PLATFORM}

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def said(text: str, **more: Any) -> dict[str, Any]:
    """The JSON-RPC answer of an agent."""
    message = {"kind": "message", "role": "agent", "parts": [{"kind": "text", "text": text}]}
    return {"jsonrpc": "2.0", "id": "1", "result": message, **more}


def echo(exchange: Exchange) -> None:
    exchange.send(200, said(f"echo: {exchange.seen.text}"))


def answers(body: Any, status: int = 200) -> Behaviour:
    return lambda exchange: exchange.send(status, body)


def hangs_up(exchange: Exchange) -> None:
    """Takes the message and closes: nobody can know whether it works on it."""
    exchange.hang_up()


def waits(then: Behaviour = echo, most_s: float = 30) -> Behaviour:
    """Holds the request until the agent is released."""

    def behave(exchange: Exchange) -> None:
        exchange.agent.released.wait(most_s)
        then(exchange)

    return behave


def breaks_off(exchange: Exchange) -> None:
    """Begins its answer, and closes in the middle."""
    exchange.handler.send_response(200)
    exchange.handler.send_header("Content-Length", "1000")
    exchange.handler.end_headers()
    exchange.handler.wfile.write(b'{"jsonrpc":"2.0","result":{"parts":[')
    exchange.handler.wfile.flush()
    exchange.hang_up()


@contextmanager
def fake_agent(*behaviours: Behaviour) -> Iterator[FakeAgent]:
    agent = FakeAgent()
    if behaviours:
        agent.behaves(*behaviours)
    try:
        yield agent
    finally:
        agent.close()
