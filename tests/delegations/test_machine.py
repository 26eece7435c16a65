"""The status machine against a model: any sequence of changes, repeats and races."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delegations.models import IN_FLIGHT, TERMINAL, Delegation, Delivery, Status
from delegations.services import Change, Outcome, mark_waiting, transition
from tests.conftest import at_once
from tests.delegations.factories import delegated, feed, fresh, inbox, pair, told

# The contract, written down a second time: from -> to -> yes, no or same.
TABLE = """
              queued dispatched in_progress stuck completed failed
queued        same   yes        yes         yes   yes       yes
dispatched    no     same       yes         yes   yes       yes
in_progress   no     no         same        yes   yes       yes
stuck         no     no         yes         same  yes       yes
completed     no     no         no          no    same      no
failed        no     no         no          no    no        same
"""


def expectations() -> dict[tuple[str, str], str]:
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    return {(row[0], to): word for row in rows for to, word in zip(head, row[1:], strict=True)}


EXPECTED = expectations()
OUTCOMES = {"yes": Outcome.MOVED, "no": Outcome.REFUSED, "same": Outcome.REPLAY}


def placed(status: str) -> Delegation:
    ended = {"finished_at": "2026-01-01T00:00:00Z"} if status in TERMINAL else {}
    return delegated(status=status, **ended)


@pytest.mark.django_db
@pytest.mark.parametrize(("pair_of", "word"), EXPECTED.items(), ids=lambda one: str(one))
def test_every_pair_of_statuses_gives_what_the_table_says(pair_of: tuple[str, str], word: str):
    was, wanted = pair_of
    row = placed(was)
    result = transition(row.pk, Change(Status(wanted)))
    assert result.outcome == OUTCOMES[word]
    assert fresh(row).status == (wanted if word == "yes" else was)


def test_the_table_has_all_thirty_six_pairs():
    assert len(EXPECTED) == 36


@pytest.mark.django_db
def test_only_an_operator_brings_a_stuck_one_back():
    row = placed("stuck")
    assert transition(row.pk, Change(Status.DISPATCHED, is_requeue=True)).moved
    ended = placed("failed")
    assert not transition(ended.pk, Change(Status.DISPATCHED, is_requeue=True)).moved


@dataclass(frozen=True)
class Step:
    to: Status
    text: str | None


steps = st.builds(
    Step,
    st.sampled_from([*Status, *TERMINAL, *TERMINAL]),
    st.sampled_from([None, "first", "second", "", "x" * 5000]),
)
EFFORT: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


class Model:
    """What a delegation should be after some steps."""

    def __init__(self) -> None:
        self.status = "queued"
        self.text: str | None = None
        self.error: str | None = None
        self.moves: list[str] = []

    def take(self, step: Step) -> None:
        word = EXPECTED[self.status, step.to.value]
        if word == "yes":
            self.status = step.to.value
            self.moves.append(self.status)
        if word == "no":
            return
        if self.status == "completed" and self.text is None:
            self.text = step.text
        if self.status == "failed" and (self.error is None or word == "yes"):
            self.error = step.text


@pytest.mark.django_db
@given(st.lists(steps, min_size=1, max_size=8))
@settings(max_examples=80, **EFFORT)
def test_any_sequence_ends_where_the_model_ends_and_is_told_once(taken: list[Step]):
    row, model = delegated(), Model()
    for step in taken:
        before = fresh(row)
        error = step.text if step.to in {Status.FAILED, Status.STUCK} else None
        text = step.text if step.to == Status.COMPLETED else None
        result = transition(row.pk, Change(step.to, text=text, error=error))
        model.take(step)
        if result.outcome == Outcome.REFUSED:
            assert fresh(row).updated_at == before.updated_at
    stored = fresh(row)
    assert stored.status == model.status
    if model.status == "completed":
        assert stored.result_preview == (model.text[:4096] if model.text is not None else None)
        assert feed(row.caller_id).get().response_body["text"] == (model.text or "")
    is_over = model.status in TERMINAL
    assert inbox(row.caller_id).count() == is_over
    assert feed(row.caller_id).count() == is_over
    assert (stored.notified_at is not None) == (stored.finished_at is not None) == is_over
    ends = {"completed": "COMPLETE", "failed": "FAILED"}
    assert told(row.caller_id) == ["SENT", *(ends.get(move, f"STATUS:{move}") for move in model.moves)]
    (line,) = feed(row.caller_id, "delegate")
    assert line.status == stored.shown


@pytest.mark.django_db(transaction=True)
@given(st.lists(st.sampled_from(list(Status)), min_size=2, max_size=4))
@settings(max_examples=25, **EFFORT)
def test_racing_changes_leave_one_end_and_one_notice(wanted: list[Status]):
    row = delegated()
    calls = [
        lambda to=to, number=number: transition(
            row.pk, Change(to, text=f"answer {number}", error=f"reason {number}")
        )
        for number, to in enumerate(wanted)
    ]
    waiting = lambda: mark_waiting(row.pk, Delivery.POLL)  # noqa: E731
    outcomes = at_once(*calls, waiting)
    assert not [one for one in outcomes if isinstance(one, Exception)], outcomes
    stored = fresh(row)
    ended = [one for one in outcomes[:-1] if one.moved and one.row.status in TERMINAL]
    assert len(ended) == bool(set(wanted) & TERMINAL)
    assert (stored.status in TERMINAL) == bool(ended)
    assert stored.status in TERMINAL or stored.status in IN_FLIGHT
    assert inbox(row.caller_id).count() == len(ended)
    assert len([name for name in told(row.caller_id) if name in {"COMPLETE", "FAILED"}]) == len(ended)
    if stored.status == "completed":
        assert stored.result_preview is not None


@pytest.mark.django_db(transaction=True)
def test_many_delegations_of_one_delegator_end_at_once_without_waiting_for_each_other_for_ever():
    caller, callee = pair()
    rows = [delegated(caller, callee) for _ in range(8)]
    outcomes = at_once(
        *(lambda row=row: transition(row.pk, Change(Status.COMPLETED, text="done")) for row in rows)
    )
    assert [one.outcome for one in outcomes] == [Outcome.MOVED] * 8
    assert inbox(caller.pk).count() == 8
