"""The first call of an agent: register, and keep trying until the control plane has answered for good."""

from __future__ import annotations

import logging
import threading
from typing import Any

from agent import __version__
from agent.client import Answer, Backoff, Platform, Unreachable, workspace_is_deleted
from agent.credentials import Credentials
from agent.exits import AgentExit, ExitCode

log = logging.getLogger("agent")


def agent_card(name: str, description: str, url: str) -> dict[str, Any]:
    """What other agents read about this one. A name equal to the workspace id, or an empty description, is
    replaced by the control plane from the workspace's own row."""
    return {
        "name": name,
        "description": description,
        "version": __version__,
        "protocolVersion": "0.3.0",
        "url": url,
        "skills": [
            {
                "id": "reply",
                "name": "Reply",
                "description": "Repeats what it is told, or answers from a script.",
                "tags": ["reference"],
            }
        ],
        "capabilities": {"streaming": False, "pushNotifications": False, "stateTransitionHistory": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
    }


def register(
    platform: Platform,
    credentials: Credentials,
    card: dict[str, Any],
    *,
    poll: bool,
    stopping: threading.Event,
) -> bool:
    """Register this workspace; True when done, False when `stopping` came first.

    Transport errors, 429 and 5xx are tried again, without end. Raises AgentExit when another try cannot help.
    """
    body: dict[str, Any] = {"id": platform.workspace_id, "agent_card": card}
    if poll:
        body["delivery_mode"] = "poll"
    else:
        body["url"] = card["url"]
    backoff = Backoff()
    while not stopping.is_set():
        retry_after_s = None
        try:
            answer = platform.post("/registry/register", body)
        except Unreachable as error:
            reason = str(error)
        else:
            if answer.ok:
                credentials.accept(answer.body)
                return True
            _raise_if_final(platform, answer)
            reason, retry_after_s = answer.error, answer.retry_after_s
        wait_s = backoff.next(retry_after_s)
        log.warning("register failed: %s; next try in %.1f s", reason, wait_s)
        stopping.wait(wait_s)
    return False


def _raise_if_final(platform: Platform, answer: Answer) -> None:
    if answer.status in (408, 429) or answer.status >= 500:
        return
    if answer.status in (404, 410) or (answer.status in (401, 403) and workspace_is_deleted(platform)):
        raise AgentExit(ExitCode.GONE, f"the control plane does not know this workspace: {answer.error}")
    if answer.status in (401, 403):
        raise AgentExit(
            ExitCode.REFUSED,
            f"the control plane refuses this agent's token: {answer.error}; "
            "rotate the workspace's token and start the agent with the new one",
        )
    raise AgentExit(ExitCode.USAGE, f"the control plane refuses the registration: {answer.error}")
