"""The environment, read once and typed.

Every variable of the product is declared in `config/settings.py` through one `Environment`; each
declaration carries its
meaning, so that the table in `docs/reference/settings.md` is generated and cannot drift.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import environ

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Variable:
    """One documented environment variable; `default` is the text shown to operators."""

    name: str
    kind: str
    default: str
    help: str
    secret: bool = False


class Environment:
    """Typed readings of `os.environ`; a value `X_FILE` names a file holding the value of `X`.

    A number that is unset, unparsable or not positive gives the default and one warning
    (docs/reference/settings.md):
    a typo in an interval must not keep the product from booting.
    """

    def __init__(self) -> None:
        self._env = environ.FileAwareEnv()
        self.declared: dict[str, Variable] = {}
        self.choices: dict[str, Sequence[str]] = {}

    def text(self, name: str, *, default: str = "", help: str, secret: bool = False) -> str:
        self._declare(Variable(name, "text", default, help, secret))
        return cast(str, self._env.str(name, default=default)).strip()

    def words(self, name: str, *, default: Sequence[str] = (), help: str, secret: bool = False) -> list[str]:
        """A comma list; entries are trimmed, empty ones dropped."""
        self._declare(Variable(name, "comma list", ",".join(default), help, secret))
        given = cast(str, self._env.str(name, default=""))
        return [word.strip() for word in given.split(",") if word.strip()] or list(default)

    def values(self, names: Sequence[str]) -> dict[str, str]:
        """The variables of the process that are set among `names`, which an operator has allowed."""
        return {name: os.environ[name] for name in names if os.environ.get(name)}

    def flag(self, name: str, *, help: str) -> bool:
        """True for exactly `1`."""
        self._declare(Variable(name, "flag (exactly 1)", "off", help))
        return cast(str, self._env.str(name, default="")).strip() == "1"

    def switch(self, name: str, *, help: str) -> bool:
        """On when unset; set, it is on for exactly `1`. Anything but `1`, `0` and nothing is warned of."""
        self._declare(Variable(name, "switch (exactly 1)", "1", help))
        if name not in self._env.ENVIRON:
            return True
        given = cast(str, self._env.str(name, default="")).strip()
        if given not in {"1", "0", ""}:
            log.warning("%s=%r is neither 1 nor 0; it is off", name, given)
        return given == "1"

    def truth(self, name: str, *, help: str) -> bool:
        """True for `1`, `true`, `yes` and `on`, in any case."""
        self._declare(Variable(name, "true or false", "false", help))
        given = cast(str, self._env.str(name, default="")).strip().lower()
        return given in {"1", "true", "yes", "on"}

    def denial(self, name: str, *, help: str) -> bool:
        """True for any text but nothing, `0`, `false`, `no` and `off`, in any case: what is not understood
        denies.
        """
        self._declare(Variable(name, "true or false", "false", help))
        given = cast(str, self._env.str(name, default="")).strip().lower()
        return given not in {"", "0", "false", "no", "off"}

    def unless(self, name: str, *, help: str) -> bool:
        """On unless it is one of `0`, `f`, `false`, `n`, `no`, `off`, in any case."""
        self._declare(Variable(name, "true or false", "true", help))
        given = cast(str, self._env.str(name, default="")).strip().lower()
        return given not in {"0", "f", "false", "n", "no", "off"}

    def optional_text(self, name: str, *, help: str) -> str | None:
        """None when unset: for a variable whose empty text has a meaning of its own."""
        self._declare(Variable(name, "text", "", help))
        given = self._env.str(name, default=None)
        return None if given is None else cast(str, given).strip()

    def choice(self, name: str, options: Sequence[str], *, default: str, help: str) -> str:
        """One of `options`, compared without case; the raw text otherwise, for a system check to refuse."""
        self._declare(Variable(name, " | ".join(options), default, help))
        self.choices[name] = options
        return cast(str, self._env.str(name, default="")).strip().lower() or default

    def positive_int(self, name: str, *, default: int, help: str) -> int:
        self._declare(Variable(name, "integer > 0", str(default), help))
        return self._number(name, default, minimum=1)

    def count(self, name: str, *, default: int, help: str) -> int:
        """An integer where 0 has a meaning of its own."""
        self._declare(Variable(name, "integer >= 0", str(default), help))
        return self._number(name, default, minimum=0)

    def integer(self, name: str, *, default: int, help: str) -> int:
        """Any integer: for a bound that 0 and less switch off."""
        self._declare(Variable(name, "integer", str(default), help))
        return self._number(name, default, minimum=None)

    def duration(self, name: str, *, default: int, help: str) -> int:
        """Seconds: a positive integer, or one with `s`, `m` or `h` behind it."""
        self._declare(Variable(name, "seconds, or like 30m", str(default), help))
        given = cast(str, self._env.str(name, default="")).strip()
        found = re.fullmatch(r"([1-9]\d{0,8})([smh]?)", given)
        if given and not found:
            log.warning("%s=%r is no duration; using %d", name, given, default)
        return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else default

    def wait(self, name: str, *, default: float, help: str) -> float:
        """Seconds, for a wait that may be shorter than one: a positive number with `ms`, `s` or `m` behind
        it.
        """
        self._declare(Variable(name, "like 500ms, 2s or 1m", f"{default:g}s", help))
        given = cast(str, self._env.str(name, default="")).strip()
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)", given)
        seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60}[found[2]] if found else 0.0
        if given and not seconds:
            log.warning("%s=%r is no time to wait; using %gs", name, given, default)
        return seconds or default

    def networks(self, name: str, *, help: str) -> list[Network]:
        """A comma list of CIDRs.

        Raises ValueError for one that is none: trusting the wrong proxy is worse than no boot.
        """
        return [ipaddress.ip_network(word, strict=False) for word in self.words(name, help=help)]

    def _number(self, name: str, default: int, *, minimum: int | None) -> int:
        given = cast(str, self._env.str(name, default="")).strip()
        if not given:
            return default
        try:
            number = int(given)
        except ValueError:
            log.warning("%s=%r is not an integer; using %d", name, given, default)
            return default
        if minimum is not None and number < minimum:
            log.warning("%s=%r is not an integer of at least %d; using %d", name, given, minimum, default)
            return default
        return number

    def _declare(self, variable: Variable) -> None:
        if variable.name in self.declared:
            raise RuntimeError(f"{variable.name} is declared twice")
        self.declared[variable.name] = variable
