"""A stack with tiny processes in place of the product; `python -m tests.stack.small` is its `up`.

They listen where the product would; servers, supervisor and command line are the real ones."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import sys
from typing import Any

from stack.application import PROJECT, Application
from stack.errors import StackError
from stack.supervisor import Probe, Service


class Small(Application):
    def steps(self) -> dict[str, list[str]]:
        return {"a step": [sys.executable, "-c", os.environ.get("SMALL_STEP", "print('the step speaks')")]}

    def services(self) -> list[Service]:
        return [
            self._serving("api", self.api_port),
            self._serving("files", self.files_port),
            self._serving("realtime", self.realtime_port),
            self._tiny(
                "worker",
                "import time; print('worker ready.', flush=True); time.sleep(3600)",
                ready_line="ready.",
            ),
        ]

    def memory_question(self) -> list[str]:
        return [sys.executable, "-c", os.environ.get("SMALL_MEMORY", "raise SystemExit(3)")]

    def memory_plugin(self) -> Service:
        code = os.environ.get("SMALL_PLUGIN", "raise SystemExit(7)")
        return Service("memory-plugin", [sys.executable, "-c", code], self.environment, PROJECT)

    def _serving(self, name: str, port: int) -> Service:
        from stack import probes

        return self._tiny(
            name, f"from tests.stack.small import serve; serve({name!r}, {port})", probe=probes.http(port)
        )

    def _tiny(
        self, name: str, code: str, *, probe: Probe | None = None, ready_line: str | None = None
    ) -> Service:
        command = [sys.executable, "-c", code]
        return Service(name, command, self.environment, PROJECT, probe=probe, ready_line=ready_line)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with who it is and what it was asked."""

    protocol_version = "HTTP/1.1"
    who = ""

    def do_GET(self) -> None:
        self._answer(0)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(len(self.rfile.read(length)))

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self, size: int) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps(
            {"who": self.who, "path": self.requestline.split()[1], "headers": headers, "size": size}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/in-small-letters":
            self.send_header("retry-after", "7")
            self.send_header("content-disposition", 'attachment; filename="a b.txt"')
            self.send_header("x-ratelimit-remaining", "0")
        self.end_headers()
        self.wfile.write(body)


def serve(who: str, port: int) -> None:
    Echo.who = who
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Echo).serve_forever()


def main() -> int:
    from stack.up import up

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--open", action="store_true")
    options = parser.parse_args()
    try:
        return up(options.data_dir, options.port, is_open=options.open, product=Small)
    except StackError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main())
