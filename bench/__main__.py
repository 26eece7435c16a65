"""`python -m bench`: measure a running stack (docs/benchmarks.md)."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from bench import machine, report
from bench.errors import BenchError
from bench.measurement import Measurement, of_repetitions
from bench.scenario import Scenario, chosen, known
from bench.session import Session, opened
from bench.target import find

MAX_SECONDS, MAX_CONNECTIONS, MAX_REPETITIONS = 600, 256, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything was measured and nothing went wrong."""
    options = _arguments().parse_args(arguments)
    if options.list:
        for one in known():
            print(f"{one.name:14} {one.about}{'' if one.is_default else ' (when named)'}")
        return 0
    try:
        return _measure(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what this run created is removed.", file=sys.stderr)
        return 130


def _measure(options: argparse.Namespace) -> int:
    scenarios = chosen(options.scenario)
    target = find(options.data_dir, options.url, options.token)
    described = machine.description(target.folder)
    settings = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": options.seconds,
        "connections": options.connections,
        "repetitions": options.repeat,
    }
    session = Session(target, seconds=options.seconds, connections=options.connections)
    with opened(session):
        results = run(scenarios, session, repeat=options.repeat)
    table = report.as_markdown(described, results)
    beside = report.write(Path(options.out), report.as_json(described, settings, results), table)
    print(f"\n{table}\nWritten to {options.out} and {beside}.")
    problems = report.failures(results)
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


def run(
    scenarios: Sequence[Scenario], session: Session, *, repeat: int = 1
) -> Mapping[str, Sequence[Measurement]]:
    """The rows of each scenario; one that cannot be measured becomes a row that says why."""
    results: dict[str, Sequence[Measurement]] = {}
    for one in scenarios:
        began = time.monotonic()
        session.tell(f"{one.name}: {one.about}")
        try:
            rows = of_repetitions([one.run(session) for _ in range(repeat)])
        except BenchError as error:
            rows = [Measurement("not measured", {}, [str(error)])]
        results[one.name] = rows
        for row in rows:
            figures = ", ".join(f"{key} {report.shown(value)}" for key, value in row.figures.items())
            session.tell(f"    {row.label}: {figures}")
        session.tell(f"    in {time.monotonic() - began:.0f} s")
    return results


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure a running stack.")
    parser.add_argument("--data-dir", default=".data", help="folder of the stack that `make up` started")
    parser.add_argument("--url", help="another address of this machine, such as http://127.0.0.1:8080")
    parser.add_argument("--token", help="the operator's token; by default the one of the folder")
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--seconds", type=_up_to(MAX_SECONDS), default=10, help="length of each load")
    parser.add_argument("--connections", type=_up_to(MAX_CONNECTIONS), default=16)
    parser.add_argument(
        "--repeat", type=_up_to(MAX_REPETITIONS), default=1, help="report the median of so many"
    )
    parser.add_argument("--out", default="bench.json", help="the table is written beside it")
    return parser


def _up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return int(text)

    return number


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that what was created is removed
    sys.exit(main())
