"""Starts services in order, restarts what dies, stops everything in reverse order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.child import Child, describe
from stack.errors import StartFailed
from stack.log import Log

Probe = Callable[[], Awaitable[bool]]

SETTLE_S = 1.0  # a service without a better sign is ready when it has lived this long
PROBE_INTERVAL_S = 0.05
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 30.0
HEALTHY_S = 60.0  # ready for this long: the next death starts again with the first delay


@dataclass(frozen=True)
class Service:
    """A process to keep running. Ready: `probe` says so, else `ready_line` was seen, else SETTLE_S."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    probe: Probe | None = None
    ready_line: str | None = None
    ready_timeout_s: float = 60.0
    user: str | None = None  # system account, when we are root and the service refuses to be
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    death_signal: signal.Signals = signal.SIGTERM  # sent by the kernel when the supervisor is gone


class Keeper:
    """Keeps one service running."""

    def __init__(self, service: Service, log: Log) -> None:
        self.service = service
        self._log = log
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.status is None else None

    async def start(self) -> float:
        """Start it, once, and wait until it is ready; return the seconds that took. Raises StartFailed."""
        seconds = await self._launch()
        self._task = asyncio.create_task(self._keep())
        return seconds

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._child is not None:
            await self._child.end(self.service.stop_signal, self.service.stop_grace_s)

    async def _keep(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            assert self._child is not None  # start() launched it
            ready_at = time.monotonic()
            status = await self._child.wait()
            if time.monotonic() - ready_at >= HEALTHY_S:
                delay_s = FIRST_DELAY_S
            delay_s = await self._revive(describe(status), delay_s)

    async def _revive(self, what_happened: str, delay_s: float) -> float:
        """Start it until it is ready; return the delay that a next death begins with."""
        name = self.service.name
        while True:
            self._log.say(f"{name} {what_happened}; it is started again in {delay_s:g} s", failed=True)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)
            try:
                seconds = await self._launch()
            except StartFailed as failure:
                if self._child is not None:
                    await self._child.end(self.service.stop_signal, self.service.stop_grace_s)
                what_happened = str(failure).removeprefix(f"{name} ").rstrip(".")
            else:
                self._log.say(f"{name} is ready again after {seconds:.1f} s")
                return delay_s

    async def _launch(self) -> float:
        service, began = self.service, time.monotonic()
        self._child = None
        self._child = child = await Child.launch(
            service.name,
            service.command,
            log=self._log,
            environment=service.environment,
            cwd=service.cwd,
            user=service.user,
            death_signal=service.death_signal,
            awaited_line=service.ready_line,
        )
        while not await self._is_ready(child, time.monotonic() - began):
            if child.status is not None:
                await child.wait()
                raise StartFailed(
                    f"{service.name} {describe(child.status)} before it was ready.", list(child.tail)
                )
            if time.monotonic() - began > service.ready_timeout_s:
                sentence = f"{service.name} was not ready within {service.ready_timeout_s:g} s."
                raise StartFailed(sentence, list(child.tail))
            await asyncio.sleep(PROBE_INTERVAL_S)
        return time.monotonic() - began

    async def _is_ready(self, child: Child, age_s: float) -> bool:
        if child.status is not None:
            return False
        if self.service.probe is not None:
            return await self.service.probe()
        if self.service.ready_line is not None:
            return child.line_seen.is_set()
        return age_s >= SETTLE_S


class Supervisor:
    """Services in stages: those of one stage start and stop together, stages one after the other."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stages: list[list[Keeper]] = []

    async def start(self, services: Sequence[Service], on_ready: Callable[[str, float], None]) -> None:
        """Start a stage; `on_ready` gets names with seconds. Raises StartFailed for the first failure."""
        stage = [Keeper(service, self._log) for service in services]
        self._stages.append(stage)

        async def start_one(keeper: Keeper) -> None:
            on_ready(keeper.service.name, await keeper.start())

        tasks = [asyncio.create_task(start_one(keeper)) for keeper in stage]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, before: Callable[[list[str]], Awaitable[None]] | None = None) -> None:
        """Stop every stage, the last one first, whatever state its services are in.

        `before` gets the names of each stage before it is stopped."""
        while self._stages:
            stage = self._stages.pop()
            if before is not None:
                await before([keeper.service.name for keeper in stage])
            await asyncio.gather(*(keeper.stop() for keeper in stage))

    async def stop_last(self) -> None:
        """Stop the stage that was started last, and go on without it."""
        await asyncio.gather(*(keeper.stop() for keeper in self._stages.pop()))

    def pids(self) -> dict[str, int]:
        """The processes that run now, by name."""
        return {
            keeper.service.name: keeper.pid
            for stage in self._stages
            for keeper in stage
            if keeper.pid is not None
        }
