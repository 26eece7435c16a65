"""Messages between agents: what the proxy adds, how many delegations go through, and whether slow agents are
felt by anybody else.

The agents are this process's own servers on loopback, which a stack calls only with MOLECULE_ENV=development.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bench import load, wire
from bench.errors import BenchError
from bench.measurement import Measurement
from bench.scenario import scenario
from bench.session import Agent, Session, heartbeat

AGENTS = 10
DELEGATIONS = 500
HANGING = 100
PATIENCE_S = 120.0


class Listener:
    """Answers every message; with `gate`, not before it is set."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
            wbufsize = -1  # head and body leave together

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if gate is not None:
                    gate.wait(PATIENCE_S)
                said = {"kind": "message", "role": "agent", "parts": [{"kind": "text", "text": "done"}]}
                data = json.dumps({"jsonrpc": "2.0", "id": body.get("id"), "result": said}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *given: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def listening(session: Session, agents: list[Agent], gate: threading.Event | None = None) -> Iterator[int]:
    """The agents take messages by push, at one server; yields its port. Raises BenchError."""
    server = Listener(gate)
    url = f"http://127.0.0.1:{server.port}"
    try:
        for agent in agents:
            card = {"id": agent.id, "url": url, "agent_card": {"name": "bench"}, "delivery_mode": "push"}
            try:
                session.call("POST", "/registry/register", card, token=agent.token)
            except BenchError as error:
                raise BenchError(f"{error}; start the stack with MOLECULE_ENV=development") from None
        session.call_all([heartbeat(agent) for agent in agents])
        yield server.port
    finally:
        if gate is not None:
            gate.set()
        server.close()


def message(token: str, path: str) -> bytes:
    said = {"message": {"parts": [{"kind": "text", "text": "count the beans"}]}}
    return wire.request("POST", path, token=token, body={"method": "message/send", "params": said})


@scenario(
    "a2a",
    about="messages over the proxy, and to the agent directly",
    workspaces=AGENTS,
    is_default=False,
)
def a2a(session: Session) -> list[Measurement]:
    agents = session.agents(AGENTS)
    with listening(session, agents) as port:
        proxied = session.hammer(
            "POST /workspaces/:id/a2a",
            [message(one.token, f"/workspaces/{one.id}/a2a") for one in agents],
            connections=4,
        )
        plan = load.Hammer("127.0.0.1", port, [message("x", "/")], 4, session.seconds)
        direct = load.hammer(plan)
    samples = direct.samples[""].milliseconds
    figures = {"per_s": len(samples) / direct.seconds, "p50_ms": sorted(samples)[len(samples) // 2]}
    return [proxied, Measurement("the same agent, called directly", figures)]


@scenario(
    "delegations",
    about=f"{DELEGATIONS} delegations among {AGENTS} agents, to the last result",
    workspaces=AGENTS,
    is_default=False,
)
def delegations(session: Session) -> list[Measurement]:
    agents = session.agents(AGENTS)
    requests = []
    for number in range(DELEGATIONS):
        caller, target = agents[number % AGENTS], agents[(number + 1) % AGENTS]
        body = {"target_id": target.id, "task": f"task {number}"}
        path = f"/workspaces/{caller.id}/delegate"
        requests.append(wire.request("POST", path, token=caller.token, body=body))
    with listening(session, agents):
        began = time.monotonic()
        session.call_all(requests)
        accepted_s = time.monotonic() - began
        ended = _until_all_ended(session, agents, began)
    figures = {
        "per_s": DELEGATIONS / ended if ended else 0.0,
        "accepted_per_s": DELEGATIONS / accepted_s,
        "seconds": ended,
        "count": float(DELEGATIONS),
    }
    problems = [] if ended else [f"not all had ended after {PATIENCE_S:.0f} s"]
    return [Measurement("delegations, accepted to answered", figures, problems)]


def _until_all_ended(session: Session, agents: list[Agent], began: float) -> float:
    """Seconds until every delegation of these agents has its result; 0 when that took too long."""
    while time.monotonic() - began < PATIENCE_S:
        open_rows = 0
        for agent in agents:
            for word in ("pending", "dispatched", "queued"):
                path = f"/workspaces/{agent.id}/delegations?limit=1&status={word}"
                open_rows += len(session.call("GET", path, token=agent.token).json())
        if not open_rows:
            return time.monotonic() - began
        time.sleep(0.1)
    return 0.0


@scenario(
    "hanging",
    about=f"heartbeats while {HANGING} messages hang on slow agents",
    workspaces=AGENTS,
    is_default=False,
)
def hanging(session: Session) -> list[Measurement]:
    agents = session.agents(AGENTS)
    beats = [heartbeat(one) for one in agents]
    before = session.hammer("POST /registry/heartbeat, nothing hangs", beats)
    gate = threading.Event()
    with listening(session, agents, gate), ThreadPoolExecutor(HANGING) as pool:
        held = [
            pool.submit(load.ask_all, session.target.address, session.target.port, [request])
            for request in (
                message(one.token, f"/workspaces/{one.id}/a2a")
                for one in (agents[number % AGENTS] for number in range(HANGING))
            )
        ]
        time.sleep(2)
        during = session.hammer(f"POST /registry/heartbeat, {HANGING} messages hang", beats)
        gate.set()
        answered = sum(one.result()[0].status == 200 for one in held)
    problems = [] if answered == HANGING else [f"{HANGING - answered} of the held messages had no answer"]
    return [before, Measurement(during.label, during.figures, [*during.problems, *problems], during.remarks)]
