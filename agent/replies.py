"""What the agent answers: a deterministic echo, or a script."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RpcError:
    code: int
    message: str


# What an agent may do instead of answering, for those who must live with it.
FAILURES = ("crash", "hang", "garbage", "drop")


@dataclass(frozen=True, slots=True)
class Errand:
    """Hand `task` to another workspace and answer with its result."""

    to: str
    task: str


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    error: RpcError | None = None  # answered instead of the text
    delay_s: float = 0.0  # how long the "work" takes
    failure: str = ""  # one of FAILURES, after the delay
    errand: Errand | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    match: str
    reply: str | None
    error: RpcError | None
    delay_s: float
    failure: str = ""
    errand: Errand | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """Rules in order; the first whose `match` is part of the text decides. Without one: an echo."""

    rules: tuple[Rule, ...] = ()

    def reply_to(self, text: str) -> Reply:
        echo = f"echo: {text}"
        for rule in self.rules:
            if rule.match in text:
                text = echo if rule.reply is None else rule.reply
                return Reply(text, rule.error, rule.delay_s, rule.failure, rule.errand)
        return Reply(echo)


def load_script(path: Path) -> Script:
    """Read a list of `{"match": substring, "reply"?: text, "delay_s"?: seconds,
    "error"?: {"code", "message"}, "failure"?: one of FAILURES,
    "delegate"?: {"to": workspace id, "task": text}}`.

    A rule without `reply` and `error` echoes after its delay. Raises ValueError with a sentence for a person.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of rules")
    return Script(tuple(_rule(entry, f"{path}: rule {number}") for number, entry in enumerate(entries, 1)))


def _rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, dict) or not isinstance(entry.get("match"), str):
        raise ValueError(f'{where} needs a text "match"')
    unknown = set(entry) - {"match", "reply", "delay_s", "error", "failure", "delegate"}
    if unknown:
        raise ValueError(f"{where} has unknown keys: {', '.join(sorted(unknown))}")
    reply, delay_s, error = entry.get("reply"), entry.get("delay_s", 0), entry.get("error")
    if reply is not None and not isinstance(reply, str):
        raise ValueError(f'{where}: "reply" must be a text')
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not 0 <= delay_s <= 86_400:
        raise ValueError(f'{where}: "delay_s" must be a number of seconds')
    failure = entry.get("failure", "")
    if failure and failure not in FAILURES:
        raise ValueError(f'{where}: "failure" is one of {", ".join(FAILURES)}')
    return Rule(
        entry["match"],
        reply,
        None if error is None else _rpc_error(error, where),
        float(delay_s),
        failure,
        _errand(entry.get("delegate"), where),
    )


def _errand(given: Any, where: str) -> Errand | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("to", "task")):
        raise ValueError(f'{where}: "delegate" needs the texts "to" and "task"')
    return Errand(given["to"], given["task"])


def _rpc_error(error: Any, where: str) -> RpcError:
    if (
        not isinstance(error, dict)
        or type(error.get("code")) is not int
        or not isinstance(error.get("message"), str)
    ):
        raise ValueError(f'{where}: "error" needs an integer "code" and a text "message"')
    return RpcError(error["code"], error["message"])
