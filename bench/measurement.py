"""What a scenario hands back: rows of the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.statistics import Load, Samples, percentile

MAX_BUSY_SHARE = 0.9  # of one processor: beyond, the generator may be what was measured


@dataclass(frozen=True)
class Measurement:
    """One row. Keys of `figures` carry their unit; `problems` make the run fail."""

    label: str
    figures: Mapping[str, float]
    problems: Sequence[str] = ()
    remarks: Sequence[str] = ()
    runs: Sequence[float] = field(default=())  # the rates of all repetitions, when there were several


def of_samples(
    label: str, samples: Samples, seconds: float, *, problems: Sequence[str] = (), remarks: Sequence[str] = ()
) -> Measurement:
    """Rate, percentiles and the statuses that are no success."""
    count = len(samples.milliseconds)
    figures = {
        "per_s": count / seconds if seconds else 0.0,
        "p50_ms": percentile(samples.milliseconds, 0.50),
        "p99_ms": percentile(samples.milliseconds, 0.99),
        "max_ms": max(samples.milliseconds, default=float("nan")),
        "count": float(count),
        "bytes": samples.body_bytes / count if count else 0.0,
        "errors": float(sum(samples.failures.values())),
    }
    found = [f"{n} answers with {status}{_meaning(status)}" for status, n in samples.failures.items()]
    if not count:
        found.append("no answer at all")
    return Measurement(label, figures, [*problems, *found], list(remarks))


def of_load(
    label: str, load: Load, processor: Mapping[str, float] | None = None, *, sample: str = ""
) -> Measurement:
    """One label of a load. `processor`: seconds that the stack's processes worked meanwhile."""
    samples = load.samples[sample]
    problems = [f"{load.unanswered} requests unanswered"] if load.unanswered else []
    if load.busy_share > MAX_BUSY_SHARE:
        problems.append(f"the generator itself was busy {load.busy_share:.0%} of the time")
    remarks = [f"generator {load.busy_share:.0%} busy"]
    count = len(samples.milliseconds)
    if processor and count:
        shares = sorted(processor.items(), key=lambda item: -item[1])
        spent = [
            f"{name} {1000 * spent / count:.2f}" for name, spent in shares if spent * 1000 > 0.01 * count
        ]
        remarks.append("processor ms each: " + ", ".join(spent))
    return of_samples(label, samples, load.seconds, problems=problems, remarks=remarks)


def of_repetitions(runs: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """Per label the run with the median rate, with the problems of all and the rates of all."""
    if len(runs) == 1:
        return list(runs[0])
    chosen = []
    for first in runs[0]:
        same = [one for run in runs for one in run if one.label == first.label]
        rates = [one.figures.get("per_s", 0.0) for one in same]
        middle = statistics.median_low(rates)
        median = same[rates.index(middle)]
        problems = list(dict.fromkeys(problem for one in same for problem in one.problems))
        chosen.append(Measurement(median.label, median.figures, problems, median.remarks, rates))
    return chosen


def _meaning(status: int) -> str:
    match status:
        case 429:
            return " (rate limit: start the stack with RATE_LIMIT=1000000000 to measure it)"
        case 599:
            return " (the connection broke)"
    return ""
