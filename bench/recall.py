"""`python -m bench.recall`: how often a memory is found again, by words and by words and meaning together.

The facts are generated from a seed: people of whom twenty things are known each (recall.json). Every question
names the person, and asks in the fact's own words, in some of them, or in none of them. Two plugin processes
serve one database, one with vectors and one without. It needs a DATABASE_URL, as `python -m
stack run` brings one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

SEED = 20
WORDS = json.loads(Path(__file__).with_suffix(".json").read_text())
KINDS = ("its own words", "some of its words", "none of its words")
NAMESPACE = 1000  # records each


@dataclass(frozen=True)
class Fact:
    id: str
    namespace: str
    content: str
    questions: tuple[str, ...]  # one per kind


def facts(count: int) -> Iterator[Fact]:
    """The same ones at every run. A person's number makes the name unique."""
    chance = random.Random(SEED)
    people = (
        f"{first} {last} {number}"
        for number in itertools.count(1)
        for first in WORDS["first"]
        for last in WORDS["last"]
    )
    made = 0
    for person in people:
        for topic in WORDS["topics"]:
            if made == count:
                return
            yield Fact(
                id=f"{made:08x}-0000-4000-8000-000000000000",
                namespace=f"workspace:bench-{made // NAMESPACE}",
                content=f"{person} {topic['fact'].format(v=chance.choice(topic['values']))}.",
                questions=tuple(f"{question} {person}?" for question in topic["questions"]),
            )
            made += 1


class Plugin:
    """A plugin process of this database, at a port of its own."""

    def __init__(self, name: str, folder: Path, **variables: str) -> None:
        self._log = folder / f"{name}.log"
        environment = {
            **os.environ,
            "MEMORY_PLUGIN_DATABASE_URL": os.environ["DATABASE_URL"],
            "MEMORY_PLUGIN_LISTEN_ADDR": "127.0.0.1:0",
            **variables,
        }
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "memory_plugin"], env=environment, stdout=sink, stderr=sink
            )
        self.client = httpx.Client(base_url=self._address(), timeout=60, trust_env=False)

    def _address(self) -> str:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if found := re.search(r"listening on (\S+)", self._log.read_text()):
                return f"http://{found[1]}"
            time.sleep(0.1)
        raise SystemExit(self._log.read_text())

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def search(self, question: str, namespaces: Sequence[str]) -> tuple[list[str], float]:
        began = time.perf_counter()
        body = {"namespaces": list(namespaces), "query": question, "limit": 10}
        answer = self.client.post("/v1/search", json=body)
        answer.raise_for_status()
        return [one["id"] for one in answer.json()["memories"]], time.perf_counter() - began


def fill(plugin: Plugin, every: Sequence[Fact]) -> float:
    began = time.perf_counter()
    for name in sorted({one.namespace for one in every}):
        plugin.client.put(f"/v1/namespaces/{name}", json={"kind": "workspace"}).raise_for_status()

    def store(one: Fact) -> None:
        body = {"id": one.id, "content": one.content, "kind": "fact", "source": "agent"}
        plugin.client.post(f"/v1/namespaces/{one.namespace}/memories", json=body).raise_for_status()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store, every))
    return time.perf_counter() - began


def wait_for_vectors() -> float:
    """Until every record has one."""
    import psycopg

    began = time.perf_counter()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
        while True:
            left = database.execute(
                "SELECT (SELECT count(*) FROM memory_records)"
                " - (SELECT count(*) FROM memory_record_embeddings)"
            ).fetchone()
            if not left or left[0] <= 0:
                database.execute("VACUUM ANALYZE memory_records, memory_record_embeddings")
                return time.perf_counter() - began
            time.sleep(1)


def measured(plugin: Plugin, asked: Sequence[Fact], kind: int, reach: Sequence[str] | None) -> dict[str, Any]:
    ranks, times = [], []
    for fact in asked:
        found, seconds = plugin.search(fact.questions[kind], reach or [fact.namespace])
        ranks.append(found.index(fact.id) + 1 if fact.id in found else 0)
        times.append(seconds * 1000)
    times.sort()
    return {
        **{f"recall@{k}": round(sum(0 < rank <= k for rank in ranks) / len(ranks), 3) for k in (1, 5, 10)},
        "p50 ms": round(statistics.median(times), 1),
        "p95 ms": round(times[int(len(times) * 0.95) - 1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=200, help="of each kind")
    options = parser.parse_args()
    every = list(facts(options.records))
    asked = random.Random(SEED).sample(every, min(options.questions, len(every)))
    everything = sorted({one.namespace for one in every})
    with tempfile.TemporaryDirectory() as folder:
        words = Plugin("words", Path(folder), MEMORY_VECTOR="off")
        stored_s = fill(words, every)
        both = Plugin(
            "both",
            Path(folder),
            MEMORY_VECTOR="required",
            MEMORY_EMBEDDING_PROVIDER="local",
            MEMORY_EMBEDDING_BATCH="500",
        )
        embedded_s = wait_for_vectors()
        print(f"{len(every)} records stored in {stored_s:.0f} s, embedded in {embedded_s:.0f} s")
        print("| Search in | Question in | | recall@1 | recall@5 | recall@10 | p50 ms | p95 ms |")
        print("|---|---|---|---|---|---|---|---|")
        for where, reach in (("one namespace of 1,000", None), (f"all {len(every):,}", everything)):
            for kind, label in enumerate(KINDS):
                for name, plugin in (("words", words), ("words and meaning", both)):
                    row = measured(plugin, asked, kind, reach)
                    print(
                        f"| {where} | {label} | {name} | " + " | ".join(map(str, row.values())) + " |",
                        flush=True,
                    )
                    print(json.dumps({"where": where, "kind": label, "by": name, **row}), file=sys.stderr)
        words.end()
        both.end()


if __name__ == "__main__":
    main()
