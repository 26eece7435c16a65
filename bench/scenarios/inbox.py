"""The hottest read: a poll-mode agent asks for what is new."""

from __future__ import annotations

from bench import wire
from bench.measurement import Measurement
from bench.scenario import scenario
from bench.session import Agent, Session

AGENTS = 50
MESSAGES = 10  # that a poll with rows returns


@scenario("inbox", about="inbox polls of 50 agents: nothing new, and 10 messages", workspaces=AGENTS)
def inbox(session: Session) -> list[Measurement]:
    agents = session.agents(AGENTS)
    session.call_all([_message(session, agent) for agent in agents for _ in range(MESSAGES + 1)])
    page = f"type=a2a_receive&limit={MESSAGES + 1}"
    pages = session.call_all([_poll(agent, page) for agent in agents])
    rows = [sorted(answer.json(), key=lambda row: row["seq"]) for answer in pages]
    ends = [_poll(agent, _since(found[-1]["id"])) for agent, found in zip(agents, rows, strict=True)]
    starts = [_poll(agent, _since(found[0]["id"])) for agent, found in zip(agents, rows, strict=True)]
    # In this order: reading on from a row acknowledges it, and an acknowledgement never falls.
    return [session.hammer(f"{MESSAGES} new rows", starts), session.hammer("nothing new", ends)]


def _since(row_id: str) -> str:
    return f"type=a2a_receive&limit=100&since_id={row_id}"


def _poll(agent: Agent, query: str) -> bytes:
    return wire.request("GET", f"/workspaces/{agent.id}/activity?{query}", token=agent.token)


def _message(session: Session, agent: Agent) -> bytes:
    message = {"role": "user", "parts": [{"kind": "text", "text": "What is the state of the release?"}]}
    body = {"method": "message/send", "params": {"message": message}}
    return wire.request("POST", f"/workspaces/{agent.id}/a2a", token=session.target.token, body=body)
