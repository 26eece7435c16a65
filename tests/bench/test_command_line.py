from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from bench import __main__, scenario
from bench.errors import BenchError
from bench.measurement import Measurement, of_samples
from bench.scenario import Scenario
from bench.session import Session
from bench.statistics import Samples
from bench.target import Target, find
from tests.bench.server import answer, serving


@pytest.fixture
def stack(tmp_path: Path) -> Callable[[Target], list[str]]:
    """Arguments that name a server as the stack of a data folder."""

    def arguments(target: Target) -> list[str]:
        (tmp_path / "url").write_text(target.url + "\n")
        (tmp_path / "admin-token").write_text("operator\n")
        return ["--data-dir", str(tmp_path), "--out", str(tmp_path / "bench.json")]

    return arguments


def with_scenario(monkeypatch: pytest.MonkeyPatch, run: scenario.Run) -> None:
    monkeypatch.setattr(__main__, "chosen", lambda names: [Scenario("only", "a trial", 0, True, run)])


def no_workspaces(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, 200, b"[]")


def test_a_run_without_problems_ends_with_0_and_writes_both_files(
    stack: Callable[[Target], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scenario(monkeypatch, lambda session: [Measurement("fine", {"per_s": 3.0})])
    with serving(no_workspaces) as target:
        assert __main__.main(stack(target)) == 0
    assert json.loads((tmp_path / "bench.json").read_text())["scenarios"]["only"][0]["label"] == "fine"
    assert "| only | fine | 3 |" in (tmp_path / "bench.md").read_text()


def test_an_answer_with_an_error_makes_the_run_fail_and_is_in_the_report(
    stack: Callable[[Target], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(session: Session) -> list[Measurement]:
        samples = Samples()
        samples.add(0.001, 500, 2)
        return [of_samples("broken", samples, 1.0)]

    with_scenario(monkeypatch, run)
    with serving(no_workspaces) as target:
        assert __main__.main(stack(target)) == 1
    assert "FAILED only, broken: 1 answers with 500" in capsys.readouterr().err
    assert "**1 answers with 500**" in (tmp_path / "bench.md").read_text()


def test_a_scenario_that_cannot_be_measured_does_not_stop_the_others(tmp_path: Path) -> None:
    def cannot(session: Session) -> list[Measurement]:
        raise BenchError("no such process")

    scenarios = [
        Scenario("one", "", 0, True, cannot),
        Scenario("two", "", 0, True, lambda session: [Measurement("x", {})]),
    ]
    session = Session(Target("127.0.0.1", 1, "t"), tell=lambda text: None)
    results = __main__.run(scenarios, session)
    assert results["one"][0].problems == ["no such process"]
    assert results["two"][0].label == "x"


def test_what_a_run_created_is_removed_also_when_it_breaks(
    stack: Callable[[Target], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        asked.append(f"{handler.command} {handler.path}")
        created = b'{"id":"w1","connection":{"auth_token":"t"}}'
        answer(handler, 200, b"[]" if handler.command == "GET" else created)

    def run(session: Session) -> list[Measurement]:
        session.agents(2)
        raise KeyboardInterrupt

    with_scenario(monkeypatch, run)
    with serving(respond) as target:
        assert __main__.main(stack(target)) == 130
    assert asked.count("POST /workspaces") == 3
    assert asked[-1] == "DELETE /workspaces/w1?confirm=true"


def test_without_a_stack_one_sentence_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["--data-dir", str(tmp_path)]) == 1
    assert "start one with `make up`" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["192.0.2.1", "10.0.0.1", "[2001:db8::1]"])
def test_only_this_machine_is_put_under_load(tmp_path: Path, host: str) -> None:
    with pytest.raises(BenchError, match="not this machine"):
        find(str(tmp_path), f"http://{host}:8080", "t")


def test_an_unknown_scenario_is_refused_with_the_list_of_all() -> None:
    with pytest.raises(BenchError, match=r"no scenario nonsense; there are .*heartbeats"):
        scenario.chosen(["nonsense"])


def test_the_default_run_has_every_scenario_but_the_long_ones() -> None:
    names = [one.name for one in scenario.chosen([])]
    short = {"heartbeats", "import", "inbox", "list", "fan-out", "overlay", "reconnect", "uploads"}
    assert short | {"load-100-10"} == set(names)
    assert "load-1000-100" in {one.name for one in scenario.known()}
