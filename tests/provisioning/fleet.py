"""The instances of an account as they live: each new one boots, and what it runs ends with it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.provisioning.ec2_cloud import Cloud
from tests.provisioning.machine import Machine, light_boot

LOOK_EVERY_S = 0.3


class Fleet:
    """`boot` is called with each new instance, in a thread; what it returns, when the instance ends."""

    def __init__(self, cloud: Cloud, boot: Callable[[Any], Callable[[], None]]) -> None:
        self._cloud = cloud
        self._boot = boot
        self._over = threading.Event()
        self._ends: dict[str, Callable[[], None]] = {}
        self._booted: set[str] = set()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="machine")
        self.failures: list[str] = []
        self._watch = threading.Thread(target=self._live, daemon=True)
        self._watch.start()

    def end(self) -> None:
        self._over.set()
        self._watch.join(30)
        self._pool.shutdown(wait=True, cancel_futures=True)
        for end in self._ends.values():
            end()

    def _live(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            live = {one["InstanceId"]: one for one in self._cloud.instances("pending", "running")}
            for instance_id in live.keys() - self._booted:
                self._booted.add(instance_id)
                self._pool.submit(self._begin, live[instance_id])
            for instance_id in self._ends.keys() - live.keys():
                self._ends.pop(instance_id)()

    def _begin(self, instance: Any) -> None:
        try:
            self._ends[instance["InstanceId"]] = self._boot(instance)
        except Exception:
            self.failures.append(traceback.format_exc())


def whole_fleet(cloud: Cloud, folder: Path) -> Fleet:
    """Machines that run the real script and the reference agent."""

    def boot(instance: Any) -> Callable[[], None]:
        machine = Machine(cloud, instance["InstanceId"], folder, DOCKER_RUNS="reference-agent")
        machine.boot()
        return machine.end

    return Fleet(cloud, boot)


def light_fleet(cloud: Cloud) -> Fleet:
    """Machines that fetch, register and beat once: many at a time."""

    def boot(instance: Any) -> Callable[[], None]:
        answer = light_boot(cloud.user_data_of(instance["InstanceId"]), instance["PrivateIpAddress"])
        assert answer.status_code in {200, 409}, answer.text
        return lambda: None

    return Fleet(cloud, boot)
