"""`python -m stack watch`: the live events of a running stack, one line each, as a canvas receives them."""

from __future__ import annotations

import json
from pathlib import Path

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from stack.errors import StackError

PAYLOAD_CHARS = 120


def watch(data_dir: str) -> int:
    """Print frames until the stack goes away or Ctrl-C. Raises StackError when none runs in `data_dir`."""
    folder = Path(data_dir)
    try:
        url = (folder / "url").read_text().strip()
        token = (folder / "admin-token").read_text().strip()
    except OSError:
        raise StackError(f"No stack is running in {folder}; start one with `make up`.") from None
    try:
        for headers in ({"Authorization": f"Bearer {token}"}, {}):  # an open stack knows no token
            try:
                return _follow(url, headers)
            except InvalidStatus as refusal:
                status = refusal.response.status_code
        raise StackError(f"The stack refused the socket (HTTP {status}).")
    except (ConnectionClosed, OSError):
        print("the stack has gone away")
    except KeyboardInterrupt:
        print()
    return 0


def _follow(url: str, headers: dict[str, str]) -> int:
    with connect(url.replace("http", "ws", 1) + "/ws", additional_headers=headers) as socket:
        print(f"watching {url}; Ctrl-C ends", flush=True)
        for frame in socket:
            print(line(json.loads(frame)), flush=True)
    return 0


def line(frame: dict[str, object]) -> str:
    """`22:45:18.629951 WORKSPACE_ONLINE 1e54b3dd {"name":"hello"}`, a long payload cut."""
    time = str(frame["timestamp"])[11:26]
    payload = json.dumps(frame["payload"], separators=(",", ":"), ensure_ascii=False)
    if len(payload) > PAYLOAD_CHARS:
        payload = payload[:PAYLOAD_CHARS] + "…"
    return f"{time} {frame['event']} {str(frame['workspace_id'])[:8]} {payload}"
