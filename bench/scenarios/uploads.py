"""Files for agents that poll: staged, fetched, acknowledged, and what the process that serves them takes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from bench import load, usage, wire
from bench.measurement import Measurement, of_load
from bench.scenario import scenario
from bench.session import Agent, Session

MIB = 1024 * 1024
FILE_BYTES = 25 * MIB
STAGED_BYTES = 20 * MIB  # two of them are one upload
UPLOADS, STAGING_AT_ONCE = 20, 4
FETCHES, FETCHING_AT_ONCE = 40, 8
BOUNDARY = "bench-boundary-0123456789"
STAGING_LIMIT_S = 3.0  # of one upload alone
MEMORY_LIMIT_MIB = 96.0


@scenario(
    "uploads",
    about="20 uploads of 2 x 20 MiB, 4 at a time; 40 fetches of 25 MiB, 8 at a time; acknowledgements",
    workspaces=4,
)
def uploads(session: Session) -> list[Measurement]:
    agents = session.agents(STAGING_AT_ONCE)
    two = multipart([STAGED_BYTES, STAGED_BYTES])
    each = [_upload(agent, two) for agent in agents]
    rows = [_alone(session, "staging 2 x 20 MiB, alone", each[0])]
    rows.append(
        _transfer(
            session,
            "staging 2 x 20 MiB",
            [each[turn % STAGING_AT_ONCE] for turn in range(UPLOADS)],
            STAGING_AT_ONCE,
            2 * STAGED_BYTES,
        )
    )
    _acknowledge_all(session, agents)

    (staged,) = session.call_all([_upload(agents[0], multipart([FILE_BYTES]))])
    one = _file_id(staged)
    content = f"/workspaces/{agents[0].id}/pending-uploads/{one}/content"
    fetching = [wire.request("GET", content, token=agents[0].token)] * FETCHES
    rows.append(_transfer(session, "fetching 25 MiB", fetching, FETCHING_AT_ONCE, FILE_BYTES))

    path = f"/workspaces/{agents[0].id}/pending-uploads/{one}/ack"
    ack = wire.request("POST", path, token=agents[0].token)
    rows.append(session.hammer("acknowledging 25 MiB, one at a time", [ack], connections=1))
    return rows


def _alone(session: Session, label: str, request: bytes) -> Measurement:
    began = time.perf_counter()
    session.call_all([request])
    spent = time.perf_counter() - began
    problems = [f"took {spent:.1f} s, allowed are {STAGING_LIMIT_S:g}"] if spent > STAGING_LIMIT_S else []
    return Measurement(label, {"max_ms": spent * 1000, "count": 1.0}, problems)


def _transfer(
    session: Session, label: str, requests: Sequence[bytes], at_once: int, each_bytes: int
) -> Measurement:
    """All `requests`, `at_once` of them in flight: throughput, and the peak of the serving process. A latency
    includes the wait for a turn.
    """
    calls = [load.Call(0.0, label, one, "clients") for one in requests]
    plan = load.Pace(session.target.address, session.target.port, calls, {"clients": at_once})
    with usage.measured(session.target.folder) as spent, _growth(session.target.folder) as growth:
        done = load.pace(plan)
    done.seconds = max(done.samples[label].milliseconds, default=0.0) / 1000
    row = of_load(label, done, spent, sample=label)
    problems, remarks = list(row.problems), list(row.remarks)
    if each_bytes and done.seconds:
        remarks.insert(0, f"{len(requests) * each_bytes / MIB / done.seconds:.0f} MiB/s")
    for grown in growth:
        remarks.append(f"files process grew by {grown:.0f} MiB at most")
        if grown > MEMORY_LIMIT_MIB:
            problems.append(f"the files process grew by {grown:.0f} MiB, allowed are {MEMORY_LIMIT_MIB:.0f}")
    return Measurement(label, row.figures, problems, remarks)


@contextmanager
def _growth(folder: Path | None) -> Iterator[list[float]]:
    """Yields a list that gets the peak growth of the files process, MiB; empty where it cannot be had."""
    found: list[float] = []
    serving = usage.files(folder) if folder else None
    if serving is None:
        yield found
        return
    before = usage.begin_peak(serving)
    yield found
    found.append((usage.peak_kib(serving) - before) / 1024)


def multipart(sizes: Sequence[int]) -> bytes:
    """A body of one random file per size."""
    parts = []
    for number, size in enumerate(sizes):
        head = f'Content-Disposition: form-data; name="files"; filename="bench-{number}.bin"'
        parts += [f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode(), os.urandom(size), b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def _upload(agent: Agent, body: bytes) -> bytes:
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return wire.request(
        "POST", f"/workspaces/{agent.id}/chat/uploads", token=agent.token, body=body, headers=kind
    )


def _file_id(answer: wire.Answer) -> UUID:
    return UUID(answer.json()["files"][0]["uri"].rpartition("/")[2])


def _acknowledge_all(session: Session, agents: Sequence[Agent]) -> None:
    """Make room: what waits for one agent is limited."""
    for agent in agents:
        path = f"/workspaces/{agent.id}/pending-uploads"
        waiting = session.call("GET", f"{path}?limit=200", token=agent.token).json()["files"]
        session.call_all(
            [wire.request("POST", f"{path}/{one['file_id']}/ack", token=agent.token) for one in waiting]
        )
