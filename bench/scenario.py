"""The list of scenarios: every function in `bench/scenarios/` that carries the mark."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from bench.errors import BenchError
from bench.measurement import Measurement
from bench.session import Session

Run = Callable[[Session], list[Measurement]]


@dataclass(frozen=True)
class Scenario:
    """`workspaces` is how many the run needs at least: smaller ones go first, since lists grow with them."""

    name: str
    about: str
    workspaces: int
    is_default: bool
    run: Run


_known: dict[str, Scenario] = {}


def scenario(name: str, *, about: str, workspaces: int, is_default: bool = True) -> Callable[[Run], Run]:
    """Marks a function as the scenario `name`; others than default ones run when they are named."""

    def mark(run: Run) -> Run:
        _known[name] = Scenario(name, about, workspaces, is_default, run)
        return run

    return mark


def known() -> list[Scenario]:
    """All of them, in the order they run."""
    from bench import scenarios

    for module in pkgutil.iter_modules(scenarios.__path__, "bench.scenarios."):
        importlib.import_module(module.name)
    return sorted(_known.values(), key=lambda one: (one.workspaces, one.name))


def chosen(names: list[str]) -> list[Scenario]:
    """The named ones, or the default ones. Raises BenchError for an unknown name."""
    every = known()
    unknown = set(names) - {one.name for one in every}
    if unknown:
        listed = ", ".join(one.name for one in every)
        raise BenchError(f"There is no scenario {', '.join(sorted(unknown))}; there are {listed}.")
    return [one for one in every if (one.name in names if names else one.is_default)]
