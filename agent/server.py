"""The agent's HTTP endpoint: the A2A route, files to and from the user, its card and a health probe."""

from __future__ import annotations

import hmac
import json
import logging
import mimetypes
import os
import selectors
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from agent import __version__
from agent.bodies import Body, BodyTooLarge, BrokenOff
from agent.folder import UploadFolder
from agent.ingest import REQUEST_LIMIT_BYTES, Refused, ingest
from agent.names import sanitised
from agent.reading import NotReadable, open_readable
from agent.rpc import Answering, Misbehaving, Stopping
from agent.tasks import Busy

log = logging.getLogger("agent")

BODY_LIMIT_BYTES = 16 * 1024 * 1024  # what the control plane's A2A proxy accepts
DISCARD_LIMIT_BYTES = 4 * BODY_LIMIT_BYTES  # of a refused body: read on, so that the sender sees the answer
CARD_PATH = "/.well-known/agent-card.json"
INGEST_PATH = "/internal/chat/uploads/ingest"
READ_PATH = "/internal/file/read"


class AgentServer(ThreadingHTTPServer):
    """One thread per connection. Waits without waking up: thousands of idle agents cost no processor time."""

    daemon_threads = True
    request_queue_size = 128
    timeout = 0  # of handle_request(): serve() has waited already

    def __init__(
        self, listener: socket.socket, answering: Answering, inbound_secret: Callable[[], str]
    ) -> None:
        TCPServer.__init__(self, listener.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        self.answering = answering
        self.inbound_secret = inbound_secret
        self.card: dict[str, Any] = {}
        self.folder: UploadFolder | None = None  # for the files of the user
        self.readable: dict[str, Path] = {}  # `/workspace` and the like: where that is here
        self._wake_reader, self._wake_writer = os.pipe()
        self._open_requests = 0
        self._requests_changed = threading.Condition()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def serve(self) -> None:
        """Accept connections until stop_accepting()."""
        with selectors.DefaultSelector() as ready:
            ready.register(self.socket, selectors.EVENT_READ)
            ready.register(self._wake_reader, selectors.EVENT_READ)
            while all(key.fileobj != self._wake_reader for key, _ in ready.select()):
                self.handle_request()

    def stop_accepting(self) -> None:
        """End serve(). The socket stays open: it may belong to whoever handed it over."""
        os.write(self._wake_writer, b"x")

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """Around one request, until its answer has been handed to the kernel."""
        with self._requests_changed:
            self._open_requests += 1
        try:
            yield
        finally:
            with self._requests_changed:
                self._open_requests -= 1
                self._requests_changed.notify_all()

    def drain(self, timeout_s: float) -> None:
        """Wait until no request is open, at most `timeout_s`."""
        with self._requests_changed:
            self._requests_changed.wait_for(lambda: self._open_requests == 0, timeout_s)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the other side hung up
            log.exception("a request failed")


def open_listener(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=AgentServer.request_queue_size)


def inherited_listener(descriptor: int) -> socket.socket:
    """The TCP socket a parent process has bound and handed over as `descriptor`. Raises OSError."""
    listener = socket.socket(fileno=descriptor)
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or listener.type != socket.SOCK_STREAM:
        raise OSError("not a TCP socket")
    listener.set_inheritable(False)
    listener.setblocking(True)
    listener.listen(AgentServer.request_queue_size)  # harmless when it listens already
    return listener


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer on a kept connection waits 40 ms for an acknowledgement
    timeout = 75  # seconds of silence before an idle connection is closed

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            self._send(200, {"status": "ok"})
        elif path == CARD_PATH:
            self._send(200, self._agent.card)
        elif path == READ_PATH:
            self._send_file()
        else:
            self._not_found()

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        if path == INGEST_PATH and self._agent.folder is not None:
            return self._ingest(self._agent.folder)
        if path != "/":
            return self._not_found()
        if not self._is_authorised():
            return self._refuse(401, "missing or invalid inbound secret")
        length = self._body_length()
        if length is None:
            return self._refuse(411, "a body needs a Content-Length")
        if length > BODY_LIMIT_BYTES:
            return self._refuse(413, f"request body exceeds {BODY_LIMIT_BYTES} byte limit")
        raw = self.rfile.read(length)
        if len(raw) < length:  # the sender broke off: half a message is no message
            self.close_connection = True
            return None
        with self._agent.open_request():
            try:
                self._send(200, self._agent.answering.answer(raw))
            except Busy:
                self._send(503, {"error": "agent is busy", "busy": True})
            except Stopping:
                self._send(503, {"error": "agent is stopping", "busy": True}, close=True)
            except Misbehaving as failure:
                self._misbehave(failure.how)

    def _ingest(self, folder: UploadFolder) -> None:
        """Files of the user; closed to everybody while no secret is known."""
        if not self._is_authorised(open_without_secret=False):
            return self._refuse(401, "missing or invalid inbound secret")
        try:
            body = Body(self.rfile, self.headers, REQUEST_LIMIT_BYTES)
        except BodyTooLarge:
            return self._refuse(413, "request body too large")
        except BrokenOff as error:
            return self._refuse(411, str(error))
        with self._agent.open_request():
            try:
                files = ingest(body.read, self.headers.get("Content-Type", ""), folder)
                status, answer = 200, {"files": files}
            except Refused as refusal:
                status, answer = refusal.status, refusal.body
            body.drop_rest()
            self._send(status, answer, close=status != 200)
        return None

    def _send_file(self) -> None:
        """A file of this agent for the user, in pieces."""
        if not self._is_authorised(open_without_secret=False):
            return self._refuse(401, "missing or invalid inbound secret")
        (path,) = parse_qs(urlsplit(self.path).query).get("path", [""])[:1]
        try:
            stream, size = open_readable(path, self._agent.readable)
        except NotReadable as refusal:
            return self._refuse(refusal.status, str(refusal))
        with stream, self._agent.open_request():
            self.send_response(200)
            self.send_header("Content-Type", mimetypes.guess_type(path)[0] or "application/octet-stream")
            self.send_header("Content-Length", str(size))
            self.send_header("Content-Disposition", f'attachment; filename="{sanitised(path)}"')
            self.end_headers()
            shutil.copyfileobj(stream, self.wfile, 256 * 1024)
        return None

    def _misbehave(self, how: str) -> None:
        self.close_connection = True
        if how == "garbage":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{garbage!")
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _not_found(self) -> None:
        self._refuse(404, "not found")

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _not_found

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses by itself (a malformed request line, an unknown method) is JSON too."""
        status, error = (404, "not found") if code == 501 else (int(code), message or "bad request")
        self._send(status, {"error": error}, close=True)

    def version_string(self) -> str:
        return f"workspace-agent/{__version__}"

    def log_message(self, format: str, *args: object) -> None:
        log.debug("http: " + format, *args)

    @property
    def _agent(self) -> AgentServer:
        return cast(AgentServer, self.server)

    def _is_authorised(self, *, open_without_secret: bool = True) -> bool:
        """Messages are taken while the agent knows no secret: one is handed over with the registration."""
        secret = self._agent.inbound_secret()
        scheme, _, given = (self.headers.get("Authorization") or "").partition(" ")
        if not secret:
            return open_without_secret
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), secret.encode())

    def _body_length(self) -> int | None:
        """Bytes announced; None when the header is absent, malformed or replaced by chunks."""
        announced = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not announced.isdecimal() or len(announced) > 18:
            return None
        return int(announced)

    def _refuse(self, status: int, error: str) -> None:
        """Answer without having used the body. What was sent of it is read and dropped first: closing a
        connection with unread bytes resets it, and the sender would not see the answer."""
        left = min(self._body_length() or 0, DISCARD_LIMIT_BYTES)
        while left > 0 and (chunk := self.rfile.read(min(left, 65536))):
            left -= len(chunk)
        self._send(status, {"error": error}, close=True)

    def _send(self, status: int, body: dict[str, Any], *, close: bool = False) -> None:
        raw = json.dumps(body, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)
