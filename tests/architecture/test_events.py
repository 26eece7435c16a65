"""The names of events: one enumeration, one table for readers, one of payloads, an emitter for each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from activity import events
from activity.events import SEEN_BY_PEERS, EventType, Frame
from tests import payloads
from tests.architecture.test_backends import sources
from tests.payloads import PAYLOADS, complaint, documented

READERS = {"activity/events.py", "activity/hub.py", "activity/consumers.py"}
# Names that clients know and no room emits yet. An entry is removed with its first emitter.
AWAITED = {}


def emitted(files: dict[str, str]) -> set[str]:
    """Names of the enumeration that the sources use."""
    return {
        name
        for path, source in files.items()
        if path not in READERS
        for name in re.findall(r"EventType\.([A-Z0-9_]+)", source)
    }


def test_every_event_has_an_emitter_and_every_emitter_an_event():
    found = emitted(dict(sources()))
    awaited = {event.name for event in AWAITED}
    assert found <= set(EventType.__members__)
    assert set(EventType.__members__) - found == awaited, "an emitter is missing, or no longer awaited"


def test_no_name_is_put_together_or_passed_as_text():
    for path, source in sources():
        if path in READERS:
            continue
        assert not re.search(r"EventType\[|EventType\(", source), path
        assert not re.search(r"(?:\brecord|\bbroadcast|\blog_event|\bFrame)\(\s*f?[\"']", source), path


def test_the_reference_and_the_payloads_list_the_enumeration():
    assert set(documented()) == set(EventType)
    assert set(PAYLOADS) == set(EventType)
    assert {mode for mode, _ in documented().values()} == {"recorded", "broadcast", "logged"}


def test_the_documented_visibility_is_the_visibility():
    assert {name for name, (_, peers) in documented().items() if peers == "yes"} == SEEN_BY_PEERS


def test_the_documented_keys_are_the_checked_ones():
    """Every key of a payload is named in its row of the reference."""
    for line in payloads.PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0].strip("`")
        if name not in set(EventType) or name in {"ACTIVITY_LOGGED", "WORKSPACE_PROVISION_FAILED"}:
            continue  # described by another page, or in words
        for shape in PAYLOADS[EventType(name)]:
            missing = {key for key in shape.required | shape.optional if key not in cells[3]}
            assert missing <= {"source_bundle_id", "error"}, (name, missing)


# --- The check of every test fires


@pytest.mark.parametrize(
    ("event", "payload", "mode"),
    [
        ("WORKSPACE_PAUSED", {}, "recorded"),
        ("WORKSPACE_PAUSED", {"name": "x", "extra": 1}, "recorded"),
        ("WORKSPACE_PAUSED", {"name": "x"}, "broadcast"),
        ("TASK_UPDATED", {"current_task": "", "active_tasks": 0}, "recorded"),
        ("ACTIVITY_LOGGED", {"Id": "x"}, "broadcast"),
        ("WORKSPACE_EXPANDED", {}, "recorded"),
    ],
)
def test_a_wrong_event_is_complained_about(event: str, payload: dict[str, object], mode: str):
    assert complaint(event, payload, mode)


def test_a_right_event_is_not():
    assert complaint("WORKSPACE_PAUSED", {"name": "x"}, "recorded") is None


def test_the_product_is_watched_and_a_test_is_not(wrong_events: list[str]):
    source = "def make(frame, event): return frame(event, None, None, {'wrong': 1})"
    file_of_the_product = str(Path(events.__file__).parent / "services.py")
    scope: dict[str, Any] = {}
    exec(compile(source, file_of_the_product, "exec"), scope)

    Frame(EventType.TASK_UPDATED, None, None, {"wrong": 1})  # type: ignore[arg-type]
    assert wrong_events == []
    scope["make"](Frame, EventType.TASK_UPDATED)
    assert wrong_events == ["TASK_UPDATED does not carry ['wrong']"]
    wrong_events.clear()
