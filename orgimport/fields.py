"""Typed reading of one mapping of a template: what is wrong is collected, so that an answer names everything.

Source: docs/reference/orgimport.md, The template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from activity.redaction import storable
from orgimport.template import Problem, is_requirement


@dataclass
class Findings:
    """What is wrong with a template, and the keys nobody knows."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def problem(self, path: str, key: str, message: str) -> None:
        self.problems.append(Problem(path, key, message))


class Fields:
    """The keys of one mapping; a null counts as absent, a key of a wrong type is a problem and absent."""

    def __init__(self, findings: Findings, path: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
        self.path = path
        self._findings = findings
        self._given = {str(key): value for key, value in given.items() if value is not None}
        unknown = sorted(set(self._given) - set(known))
        findings.warnings += [{"path": path, "key": storable(key)[:200]} for key in unknown]

    def problem(self, key: str, message: str) -> None:
        self._findings.problem(self.path, key, message)

    def warn(self, key: str) -> None:
        self._findings.warnings.append({"path": self.path, "key": key})

    def text(self, key: str, *, limit: int | None = None) -> str:
        value = self._typed(key, str, "a text")
        if value is None:
            return ""
        if limit and len(value) > limit:
            self.problem(key, f"must be at most {limit} characters")
            return ""
        return str(storable(value))

    def number(self, key: str) -> int:
        value = self._typed(key, int, "a whole number")
        return 0 if value is None else int(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._typed(key, bool, "true or false")
        return default if value is None else bool(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        return self._typed(key, dict, "a mapping") or {}

    def items(self, key: str) -> list[Any]:
        return self._typed(key, list, "a list") or []

    def mappings(self, key: str) -> list[Mapping[str, Any]]:
        return [one for one in self._each(key, dict, "a mapping") if isinstance(one, Mapping)]

    def texts(self, key: str) -> list[str]:
        return [str(storable(one)) for one in self._each(key, str, "a text")]

    def requirements(self, key: str) -> tuple[Any, ...]:
        found = self.items(key)
        for index, one in enumerate(found):
            if not is_requirement(one):
                self.problem(f"{key}[{index}]", "must be a name or {any_of: [names]}")
        return tuple(one for one in found if is_requirement(one))

    def _each(self, key: str, kind: type[Any], words: str) -> list[Any]:
        found = self.items(key)
        for index, one in enumerate(found):
            if not isinstance(one, kind):
                self.problem(f"{key}[{index}]", f"must be {words}")
        return [one for one in found if isinstance(one, kind)]

    def _typed(self, key: str, kind: type[Any], words: str) -> Any:
        value = self._given.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.problem(key, f"must be {words}")
            return None
        return value
