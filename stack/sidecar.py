"""The memory plugin beside the server: only where an operator has opted in, and not without an answer.

A server that sends memories to a plugin which never came up would lose them one by one; one that does not
start is noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stack import probes
from stack.errors import StartFailed
from stack.log import Log
from stack.supervisor import Service, Supervisor

GATE_S = 30.0
NOT_WANTED = 3  # the status of `manage.py memory_plugin_wanted`
CAUSES = "Its database cannot be reached or migrated, its address is taken, or it is no memory plugin."


async def start(
    question: Sequence[str], service: Service, *, supervisor: Supervisor, log: Log
) -> Mapping[str, str]:
    """Start `service` when the command `question` says so, and wait for its health.

    Returns the environment for the server: without MEMORY_PLUGIN_URL when MEMORY_PLUGIN_REQUIRED=0 and the
    plugin does not come up. Raises StartFailed when it does not and is required.
    """
    environment = service.environment
    found = await _asked(question, service)
    if found is None:
        return environment
    host, port = found
    plugin = replace(
        service,
        environment={
            **environment,
            "MEMORY_PLUGIN_DATABASE_URL": environment.get("MEMORY_PLUGIN_DATABASE_URL")
            or environment["DATABASE_URL"],
        },
        # A port that the system chooses is known to nobody but the log.
        probe=probes.http(port, "/v1/health", host=host) if port else None,
        ready_line="listening on",
        ready_timeout_s=GATE_S,
    )
    try:
        await supervisor.start([plugin], lambda name, seconds: None)
    except StartFailed as failure:
        log.say(
            f"memory-plugin: \u274c /v1/health never returned 200 after {GATE_S:g}s: {failure}", failed=True
        )
        log.say(f"memory-plugin: {CAUSES}", failed=True)
        if environment.get("MEMORY_PLUGIN_REQUIRED", "1").strip() != "0":
            raise
        await supervisor.stop_last()
        log.say("memory-plugin: MEMORY_PLUGIN_REQUIRED=0, the server starts without it")
        return {name: value for name, value in environment.items() if name != "MEMORY_PLUGIN_URL"}
    log.say(f"memory-plugin: \u2705 sidecar healthy on {host}:{port}")
    return environment


async def _asked(question: Sequence[str], service: Service) -> tuple[str, int] | None:
    """Host and port to dial; None when it is not wanted. Raises StartFailed."""
    asked = await asyncio.create_subprocess_exec(
        *question,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(service.environment),
        cwd=service.cwd,
    )
    told, complaint = await asked.communicate()
    if asked.returncode == NOT_WANTED:
        return None
    words = told.decode().split()
    if asked.returncode != 0 or len(words) != 2:
        raise StartFailed(
            "whether a memory plugin is wanted cannot be told.", complaint.decode().splitlines()
        )
    return words[0], int(words[1])
