"""Valkey may be lost at any time: workers go on with what they do, and take what comes next."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.conf import settings

from config.celery import app
from stack import ports
from stack.valkey import Valkey, binary
from tests.waiting import eventually

LONG_S = 60  # longer than the test waits for anything


class Broker:
    """A Valkey of this test that can be killed and comes back empty at the same address."""

    def __init__(self, folder: Path) -> None:
        (port,) = ports.choose(1)
        self._valkey = Valkey(folder / "valkey", port, "secret")
        self._valkey.prepare()
        self.url = self._valkey.url
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([str(binary()), str(self._valkey.folder / "valkey.conf")])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    one = Broker(tmp_path)
    yield one
    one.kill()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_in_the_middle_of_a_task_takes_the_next_one_after_valkey_was_lost(
    broker: Broker, tmp_path: Path, pool: str
):
    habits = "--without-mingle --without-gossip --prefetch-multiplier 1 -l info"
    command = f"celery -A config worker -P {pool} -c 3 -Q lamps -I tests.config.lamps {habits}"
    environment = {**os.environ, "REDIS_URL": broker.url, "PYTHONPATH": str(settings.BASE_DIR)}
    log = tmp_path / "worker.log"
    with log.open("wb") as sink:
        worker = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            env=environment,
            cwd=settings.BASE_DIR,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    client = Celery(broker=broker.url)
    try:
        light(client, tmp_path / "long", LONG_S)
        broker.kill()
        broker.start()
        light(client, tmp_path / "next", 0)
        assert not (tmp_path / "long.out").exists()
        assert worker.poll() is None
        assert "Unrecoverable" not in log.read_text()
    finally:
        worker.kill()
        worker.wait()
        client.close()


@pytest.mark.parametrize("answer", ["ack", "reject", "requeue"])
def test_a_message_of_a_lost_connection_is_answered_to_nobody(valkey: Any, answer: str):
    """Celery takes an error here for one of its own, and ends the worker."""
    with app.connection() as connection:
        queue = connection.SimpleQueue("answers")
        queue.put({})
        message = queue.get(timeout=5)
    getattr(message, answer)()
    assert valkey.hlen("unacked") == 1  # it comes again, as it must


def light(client: Celery, name: Path, seconds: float) -> None:
    """Have it done, by a message that may be lost with its broker: it is sent again after a while."""
    lit = Path(f"{name}.lit")
    for _ in range(5):
        client.send_task("test.lamp", (str(name), seconds), queue="lamps", retry=True)
        with suppress(AssertionError):
            return eventually(lit.exists, within_s=10)
    raise AssertionError(f"nobody began {name.name}")
