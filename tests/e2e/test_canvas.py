"""A canvas follows a living org: it loads, listens, loses its socket, comes back, and ends with the truth."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from datetime import datetime
from uuid import UUID

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from activity.events import EventType, Frame
from tests.architecture.canvas import Canvas
from tests.e2e.conftest import Operator
from tests.stack.running import eventually


class LiveCanvas:
    """What a tab does: a socket, then the list, then every frame; again from the list on reconnect."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._open = ExitStack()
        self.frames = 0
        self.connect()

    def connect(self) -> None:
        self.close()
        self.socket: ClientConnection = self._open.enter_context(self._operator.socket())
        self.state = Canvas(self._operator.get("/workspaces"))

    def close(self) -> None:
        self._open.close()

    def read(self, timeout: float) -> bool:
        """Apply one frame; False when none came in time. A closed socket is reconnected."""
        try:
            text = self.socket.recv(timeout=timeout)
        except TimeoutError:
            return False
        except ConnectionClosed:
            self.connect()
            return True
        given = json.loads(text)
        assert set(given) == {"event", "workspace_id", "timestamp", "payload"}
        moment = datetime.fromisoformat(given["timestamp"])
        self.state.apply(
            Frame(EventType(given["event"]), UUID(given["workspace_id"]), moment, given["payload"])
        )
        self.frames += 1
        return True

    def is_true(self) -> bool:
        while self.read(0.2):
            pass
        return self.state.nodes == Canvas(self._operator.get("/workspaces")).nodes


def live(operator: Operator) -> None:
    """A morning in an org: a team is hired, works, is paused and resumed; one leaves."""
    lead = operator.create("canvas lead")
    members = [operator.create(f"canvas member {number}", parent_id=lead) for number in range(3)]
    for one in [lead, *members]:
        operator.until(one, "online", within_s=30)
    operator.post(f"/workspaces/{lead}/pause")
    operator.post(f"/workspaces/{lead}/resume")
    operator.call("PATCH", f"/workspaces/{members[0]}", {"parent_id": members[1]})
    operator.call("DELETE", f"/workspaces/{members[2]}")
    operator.post(f"/workspaces/{members[1]}/restart")
    for one in [lead, *members[:2]]:
        operator.until(one, "online", within_s=30)


def test_a_canvas_ends_with_the_picture_the_list_gives(operator: Operator):
    canvas = LiveCanvas(operator)
    org = threading.Thread(target=live, args=(operator,))
    org.start()
    while canvas.frames < 5:
        assert canvas.read(20)
    canvas.socket.close()  # a laptop lid, a proxy's time limit
    while org.is_alive():
        canvas.read(0.2)
    org.join()
    eventually(canvas.is_true, 30)
    assert canvas.frames > 10
    canvas.close()
