"""What operators learn of a start: bootstrap-failed, console, boot-log."""

from __future__ import annotations

from collections import deque
from typing import Any
from uuid import uuid4

import pytest

from activity.models import StructureEvent
from provisioning.backends.base import BackendError, ErrorClass, FileError, FileProblem, Unsupported
from provisioning.models import RunState
from provisioning.services.boot_failures import end_of
from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.provisioning.conftest import queued, run_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def report(row: Workspace, **body: Any) -> Any:
    return admin().post(f"/admin/workspaces/{row.pk}/bootstrap-failed", body)


def starting() -> Workspace:
    return WorkspaceFactory(status=Status.PROVISIONING)


def events() -> list[Any]:
    rows = StructureEvent.objects.filter(event_type="WORKSPACE_PROVISION_FAILED").order_by("seq")
    return list(rows.values_list("payload", flat=True))


def test_a_start_that_failed_keeps_its_reason_and_its_log(published):
    row = starting()
    answer = report(row, error="exit 1", log_tail="line 1\nline 2")
    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    row.refresh_from_db()
    assert (row.status, row.last_sample_error) == (Status.FAILED, "exit 1\n\nline 1\nline 2")
    payload = {"error": "exit 1", "log_tail": "line 1\nline 2", "source": "bootstrap_watcher"}
    assert events() == [payload]
    assert [frame.payload for frame in published] == [payload]


def test_the_second_report_changes_nothing(published):
    row = starting()
    report(row, error="first")
    published.clear()
    answer = report(row, error="second")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "no_change": True})
    row.refresh_from_db()
    assert row.last_sample_error == "first"
    assert (len(events()), published) == (1, [])


def test_of_two_reports_at_once_one_is_the_change():
    row = starting()
    answers = at_once(lambda: report(row, error="a"), lambda: report(row, error="b"))
    assert sorted("no_change" in answer.json() for answer in answers) == [False, True]
    assert len(events()) == 1


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.PROVISIONING, Status.FAILED}))
def test_only_a_start_in_flight_can_fail(status):
    row = WorkspaceFactory(status=status)
    assert report(row, error="x").json() == {"ok": True, "no_change": True}
    row.refresh_from_db()
    assert (row.status, row.last_sample_error) == (status, None)
    assert report(Workspace(id=uuid4())).json() == {"ok": True, "no_change": True}
    assert events() == []


@pytest.mark.parametrize("body", [{}, {"error": "  ", "log_tail": None}, {"error": None, "log_tail": " "}])
def test_without_a_reason_it_says_where_to_look(body):
    row = starting()
    report(row, **body)
    row.refresh_from_db()
    assert row.last_sample_error == "bootstrap failed — see log_tail"


def test_a_long_log_keeps_its_end():
    row = starting()
    report(row, error="boom", log_tail="".join(f"ligne {number} é€𝄞\n" for number in range(2000)))
    row.refresh_from_db()
    (payload,) = events()
    for text in (row.last_sample_error, payload["log_tail"]):
        assert text.endswith("ligne 1999 é€𝄞\n")
        assert "\ufffd" not in text
    assert row.last_sample_error.startswith("boom\n\n...(truncated)...\n")
    assert len(row.last_sample_error.encode()) <= 8192
    assert payload["log_tail"].startswith("...(truncated)...\n")
    assert 8180 < len(payload["log_tail"].encode()) - len("...(truncated)...\n") <= 8192


@pytest.mark.parametrize("size", [8191, 8192, 8193])
def test_the_cut_is_at_8192_bytes(size):
    text = "x" * size
    kept = end_of(text, 8192, beside=True)
    assert kept == text if size <= 8192 else kept == "...(truncated)...\n" + text[-8192:]


def test_a_long_reason_leaves_room_for_the_log():
    row = starting()
    report(row, error="é" * 10_000, log_tail="x" * 20_000 + "END")
    row.refresh_from_db()
    assert row.last_sample_error.startswith("é" * 1000)
    assert row.last_sample_error.endswith("END")
    assert len(row.last_sample_error.encode()) <= 8192
    report(other := starting(), error="é" * 10_000)
    other.refresh_from_db()
    assert other.last_sample_error.startswith("é" * 1000)
    assert len(other.last_sample_error.encode()) <= 8192


def test_credentials_are_kept_nowhere_not_even_where_the_cut_would_halve_one():
    row = starting()
    key = "sk-" + "a1" * 20
    log = f"OPENAI_API_KEY={key}\n" + "x \n" * 6000 + f"Authorization: Bearer {key}" + "y\n" * 4080
    report(row, error=f"no model for {key}", log_tail=log + "\x00nul")
    row.refresh_from_db()
    for text in (row.last_sample_error, str(events())):
        assert "a1a1a1" not in text
    assert row.last_sample_error.startswith("no model for [REDACTED:SK_TOKEN]")


def test_the_run_of_the_start_fails_too(backend, doorbell):
    row = queued()
    assert report(row, error="no disk").json() == {"ok": True}
    run = run_of(row)
    assert (run.state, run.error_class, run.error_safe) == (RunState.FAILED, "boot_failed", "no disk")
    doorbell.work()
    assert backend.specs == []
    row.refresh_from_db()
    assert row.status == Status.FAILED


@pytest.mark.parametrize("body", [[], "text", {"error": 7}, {"log_tail": ["x"]}])
def test_a_bad_body_is_refused(body):
    row = starting()
    answer = admin().post(f"/admin/workspaces/{row.pk}/bootstrap-failed", body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_a_database_that_refuses_is_told_in_fixed_words():
    row = starting()
    with statements_fail('UPDATE "workspaces"'):
        answer = report(row, error="x")
    assert (answer.status_code, answer.json()) == (500, {"error": "db update failed"})
    with statements_fail("structure_events"):
        assert report(row, error="x").status_code == 500
    row.refresh_from_db()
    assert row.status == Status.PROVISIONING


def test_these_routes_are_the_operators():
    row = starting()
    for caller in (anonymous(), agent_of(row.pk)):
        assert caller.post(f"/admin/workspaces/{row.pk}/bootstrap-failed", {}).status_code == 401
        assert caller.get(f"/workspaces/{row.pk}/console").status_code == 401
        assert caller.get(f"/workspaces/{row.pk}/boot-log").status_code == 401
    assert admin().post("/admin/workspaces/global/bootstrap-failed", {}).status_code == 400


def test_there_is_no_console_without_machines():
    row = WorkspaceFactory()
    answer = admin().get(f"/workspaces/{row.pk}/console")
    assert (answer.status_code, answer.json()) == (
        501,
        {"error": "console output unavailable on this deployment (no control plane)"},
    )
    assert admin().get(f"/workspaces/{uuid4()}/console").status_code == 404


def test_the_boot_log_is_the_backends_without_credentials(backend, monkeypatch):
    row = WorkspaceFactory()
    asked: list[int] = []

    def logs(workspace_id: Any, tail: int) -> str:
        assert workspace_id == row.pk
        asked.append(tail)
        return "started\nGITHUB_TOKEN=abc"

    monkeypatch.setattr(backend, "logs", logs)
    body = {"source": "memory", "output": "started\n[REDACTED:TOKEN]"}
    assert admin().get(f"/workspaces/{row.pk}/boot-log").json() == body
    for tail in ("7", "0", "-1", "9999999", "many", "²"):
        assert admin().get(f"/workspaces/{row.pk}/boot-log", tail=tail).status_code == 200
    assert asked == [200, 7, 1, 200, 2000, 200, 200]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Unsupported("logs"), 501, "boot log unavailable on this deployment"),
        (
            BackendError(ErrorClass.TRANSIENT, "x", detail="/var/run/engine.sock"),
            502,
            "the workspace's log could not be read",
        ),
    ],
)
def test_a_log_that_cannot_be_read_is_told_apart(backend, monkeypatch, error, status, text):
    row = WorkspaceFactory()
    failures = deque([error])

    def logs(workspace_id: Any, tail: int) -> str:
        raise failures.popleft()

    monkeypatch.setattr(backend, "logs", logs)
    answer = admin().get(f"/workspaces/{row.pk}/boot-log")
    assert (answer.status_code, answer.json()) == (status, {"error": text})


def test_there_is_no_boot_log_without_a_backend_or_of_an_external_workspace(no_backend):
    assert admin().get(f"/workspaces/{WorkspaceFactory().pk}/boot-log").status_code == 501
    assert admin().get(f"/workspaces/{WorkspaceFactory(runtime='external').pk}/boot-log").status_code == 404


def test_the_console_is_the_machines_without_credentials(backend, monkeypatch):
    monkeypatch.setattr(backend, "capabilities", backend.capabilities | {"console"})
    row = WorkspaceFactory(instance_id="i-1")
    outputs: deque[Any] = deque(
        [
            "RUNTIME CRASHED\nGITHUB_TOKEN=abc\x00",
            FileError(FileProblem.MISSING, "no machine"),
            BackendError(ErrorClass.TRANSIENT, "x", detail="arn:aws"),
        ]
    )

    def console(workspace_id: Any) -> str:
        assert workspace_id == row.pk
        if isinstance(output := outputs.popleft(), Exception):
            raise output
        return output

    monkeypatch.setattr(backend, "console", console)
    answer = admin().get(f"/workspaces/{row.pk}/console")
    text = "RUNTIME CRASHED\n[REDACTED:TOKEN]"
    assert (answer.status_code, answer.json()) == (200, {"output": text, "instance_id": "i-1"})
    answer = admin().get(f"/workspaces/{row.pk}/console")
    assert (answer.status_code, answer.json()) == (404, {"error": "this workspace has no machine"})
    answer = admin().get(f"/workspaces/{row.pk}/console")
    assert (answer.status_code, answer.json()) == (502, {"error": "the machine's console could not be read"})
