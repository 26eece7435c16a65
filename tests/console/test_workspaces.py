"""The operators' pages about workspaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from access.models import TokenKind
from access.services import mint_token, store_secrets
from config.admin import PAGED, BoundedPaginator
from console.confirmation import CHANGED
from console.models import OperatorAction
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import WorkspaceLifecycle
from tests.console.conftest import few_queries, login, text_of
from tests.provisioning.conftest import Doorbell, running, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)

LIST = "/console/workspaces/workspace/"


@pytest.fixture
def backend() -> Iterator[InMemoryBackend]:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    yield memory
    dispatch.choose_again()


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    from config import jobs

    bell = Doorbell()
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell


def page(row: Workspace) -> str:
    return f"{LIST}{row.pk}/change/"


def act(row: Workspace, verb: str) -> str:
    return f"{LIST}{row.pk}/act/{verb}/"


def seen(browser: Client, path: str, **query: str) -> str:
    found = re.search(r'name="seen" value="(\w*)"', text_of(browser.get(path, query)))
    assert found, "the page offers nothing to confirm"
    return found[1]


def confirm(browser: Client, path: str, typed: str, reason: str = "it hangs", **more: str) -> Any:
    form = {"seen": seen(browser, path), "typed": typed, "reason": reason, **more}
    return browser.post(path, form, follow=True)


def names(html: str) -> set[str]:
    """The workspaces listed."""
    return set(re.findall(r"/change/[^>]*>\s*([\w ]+?)\s*</a>", html))


# --- The list


def test_the_list_shows_what_an_operator_looks_for():
    parent = WorkspaceFactory(name="Lead")
    WorkspaceFactory(
        name="Dev",
        parent=parent,
        instance_id="i-0123",
        runtime_image_digest="sha256:" + "a" * 64,
        generation=7,
        last_heartbeat_at=timezone.now() - timedelta(minutes=12),
    )
    html = text_of(login("viewer").get(LIST))
    for text in ("Dev", "Lead", "i-0123", "…" + "a" * 20, ">7<", "12m"):
        assert text in re.sub(r">\s+|\s+<", lambda match: match[0].strip(), html), text


def test_the_list_of_many_costs_what_the_list_of_few_does():
    browser = login("operator")
    parent = WorkspaceFactory()
    for _ in range(60):
        WorkspaceFactory(parent=parent)
    for query in ({}, {"trouble": "stale"}, {"q": "workspace"}, {"p": "2"}, {"o": "6"}):
        with few_queries():
            text_of(browser.get(LIST, query))


@pytest.mark.parametrize("trouble", ["stale", "stuck", "orphaned", "cleanup"])
def test_each_trouble_finds_its_rows_and_no_others(trouble: str):
    now = timezone.now()
    hour = timedelta(hours=1)
    gone = WorkspaceFactory(name="gone", status=Status.REMOVED)
    WorkspaceFactory(name="fine", last_heartbeat_at=now)
    WorkspaceFactory(name="stale", last_heartbeat_at=now - hour)
    WorkspaceFactory(name="offline", status=Status.OFFLINE, last_heartbeat_at=now - hour)
    WorkspaceFactory(name="stuck", status=Status.PROVISIONING, provision_deadline_at=now - hour)
    WorkspaceFactory(name="starting", status=Status.PROVISIONING, provision_deadline_at=now + hour)
    WorkspaceFactory(name="orphaned", parent=gone, last_heartbeat_at=now)
    WorkspaceFactory(name="cleanup", status=Status.REMOVED, cleanup_pending=True)
    assert names(text_of(login("viewer").get(LIST, {"trouble": trouble}))) == {trouble}


def test_tombstones_are_out_of_sight_unless_asked_for():
    WorkspaceFactory(name="gone", status=Status.REMOVED)
    WorkspaceFactory(name="here")
    browser = login("viewer")
    assert names(text_of(browser.get(LIST))) == {"here"}
    assert names(text_of(browser.get(LIST, {"status": "all"}))) == {"here", "gone"}
    assert names(text_of(browser.get(LIST, {"status": "removed"}))) == {"gone"}
    assert names(text_of(browser.get(LIST, {"runtime": EXTERNAL}))) == set()
    assert names(text_of(browser.get(LIST, {"tier": "3"}))) == {"here"}
    assert names(text_of(browser.get(LIST, {"tier": "2"}))) == set()
    assert names(text_of(browser.get(LIST, {"q": "her"}))) == {"here"}


def test_no_page_counts_or_skips_a_whole_table():
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO workspaces (id, name, tier, status, runtime, url_source, delivery_mode,"
            " delivery_mode_explicit, workspace_access, last_error_rate, active_tasks, max_concurrent_tasks,"
            " uptime_seconds, monthly_spend, generation, cleanup_pending)"
            " SELECT gen_random_uuid(), 'w' || n, 3, 'online', 'langgraph', 'agent', 'push', false, 'none',"
            " 0, 0, 1, 0, 0, 1, false FROM generate_series(1, %s) n",
            [PAGED + 500],
        )
        cursor.execute("ANALYZE workspaces")
    pages = BoundedPaginator(Workspace.objects.order_by("created_at"), 50)
    assert pages.count == PAGED + 500
    assert pages.num_pages == PAGED / 50
    few = BoundedPaginator(Workspace.objects.filter(name__in=["w1", "w2"]).order_by("pk"), 50)
    assert (few.count, few.num_pages) == (2, 1)
    browser = login("viewer")
    with few_queries():
        text_of(browser.get(LIST))


# --- The page of one


def test_the_page_of_one_tells_its_story_and_no_secret():
    row = WorkspaceFactory(name="Dev", platform_inbound_secret="sealed-inbound")
    token = mint_token(workspace_id=row.pk, kind=TokenKind.API)
    store_secrets(workspace_id=row.pk, values={"OPENAI_API_KEY": "sk-very-secret"})
    OperatorAction.objects.create(
        actor="ada", verb="workspace.restart", object_kind="workspace", object_id=str(row.pk), reason="hung"
    )
    browser = login("viewer")
    with CaptureQueriesContext(connection) as asked:
        html = text_of(browser.get(page(row)))
    assert len(asked) < 24
    for text in ("Timeline", "ada: workspace.restart", "hung", "OPENAI_API_KEY", token[:8]):
        assert text in html, text
    for secret in ("sk-very-secret", token, "sealed-inbound"):
        assert secret not in html
    assert "/act/" not in html  # a viewer is offered no action


def test_an_unknown_one_is_not_found():
    browser = login("administrator")
    assert browser.get(f"{LIST}00000000-0000-0000-0000-000000000000/act/pause/").status_code == 404
    assert browser.get(act(WorkspaceFactory(), "explode")).status_code == 404


# --- Acting


@pytest.mark.parametrize("verb", ["restart", "pause", "resume", "hibernate", "remove"])
@pytest.mark.parametrize("role", [None, "viewer", "operator"])
def test_who_may_not_act_does_not(verb: str, role: str | None, backend: InMemoryBackend):
    if role == "operator" and verb != "remove":
        return
    row = WorkspaceFactory(name="Dev")
    browser = login(role)
    assert browser.get(act(row, verb)).status_code == 403
    form = {"typed": "Dev", "reason": "because", "seen": ""}
    assert browser.post(act(row, verb), form).status_code == 403
    assert status_of(row) == Status.ONLINE
    assert not OperatorAction.objects.exists()


@committed
def test_looking_changes_nothing(backend: InMemoryBackend, doorbell: Doorbell):
    row = running(backend, doorbell, name="Dev")
    browser = login("administrator")
    assert "act/remove" in text_of(browser.get(page(row)))
    for verb in ("restart", "pause", "hibernate", "remove"):
        html = text_of(browser.get(act(row, verb)))
        assert "It concerns 1 workspace(s)" in html
    assert "not paused" in text_of(browser.get(act(row, "resume")))
    assert status_of(row) == Status.ONLINE
    assert not OperatorAction.objects.exists()


@committed
@pytest.mark.parametrize(
    "change", [{"typed": "dev"}, {"typed": ""}, {"reason": " "}, {"reason": "x" * 501}, {"seen": "elsewhere"}]
)
def test_without_the_name_a_reason_or_what_was_shown_nothing_happens(
    change: dict[str, str], backend: InMemoryBackend, doorbell: Doorbell
):
    row = running(backend, doorbell, name="Dev")
    browser = login("administrator")
    form = {"typed": "Dev", "reason": "because", "seen": seen(browser, act(row, "remove"))}
    answer = browser.post(act(row, "remove"), form | change)
    assert answer.status_code == 200
    assert 'role="alert"' in answer.content.decode() or CHANGED in answer.content.decode()
    assert status_of(row) == Status.ONLINE
    assert not OperatorAction.objects.exists()


@committed
def test_a_tree_that_has_grown_since_the_page_was_shown_is_shown_again(
    backend: InMemoryBackend, doorbell: Doorbell
):
    row = running(backend, doorbell, name="Dev")
    browser = login("administrator")
    before = seen(browser, act(row, "remove"))
    child = WorkspaceFactory(parent=row, name="Newborn")
    form = {"typed": "Dev", "reason": "because", "seen": before}
    html = text_of(browser.post(act(row, "remove"), form))
    assert CHANGED in html
    assert "Newborn" in html
    assert "because" in html  # what was written is kept
    assert {status_of(row), status_of(child)} == {Status.ONLINE}
    confirm(browser, act(row, "remove"), "Dev")
    assert {status_of(row), status_of(child)} == {Status.REMOVED}


@committed
def test_a_restart(backend: InMemoryBackend, doorbell: Doorbell):
    row = running(backend, doorbell, name="Dev")
    answer = confirm(login("operator"), act(row, "restart"), "Dev", "it hangs")
    assert "restart is accepted" in answer.content.decode()
    assert status_of(row) == Status.PROVISIONING
    assert WorkspaceLifecycle.objects.get(pk=row.pk).restart_pending
    record = OperatorAction.objects.get()
    assert (record.actor, record.verb) == ("a-operator", "workspace.restart")
    assert (record.object_id, record.object_name) == (str(row.pk), "Dev")
    assert (record.reason, record.outcome) == ("it hangs", "done")
    assert record.client_address == "127.0.0.1"


@committed
def test_pause_and_resume_of_a_tree(backend: InMemoryBackend, doorbell: Doorbell):
    row = running(backend, doorbell, name="Dev")
    child = running(backend, doorbell, name="Child", parent=row)
    browser = login("operator")
    assert "Child" in text_of(browser.get(act(row, "pause")))
    confirm(browser, act(row, "pause"), "Dev")
    assert {status_of(row), status_of(child)} == {Status.PAUSED}
    assert backend.list_managed() == []
    refused = text_of(browser.get(act(child, "resume")))
    assert "is paused — resume it first" in refused.replace("&quot;", '"')
    confirm(browser, act(row, "resume"), "Dev")
    assert {status_of(row), status_of(child)} == {Status.PROVISIONING}
    assert [one.result for one in OperatorAction.objects.order_by("started_at")] == [
        "2 workspace(s) paused.",
        "2 workspace(s) resumed.",
    ]


@committed
def test_hibernation_spares_who_works(backend: InMemoryBackend, doorbell: Doorbell):
    row = running(backend, doorbell, name="Dev")
    browser = login("operator")
    Workspace.objects.filter(pk=row.pk).update(active_tasks=2)
    assert "2 active task(s)" in text_of(browser.get(act(row, "hibernate")))
    Workspace.objects.filter(pk=row.pk).update(active_tasks=0)
    confirm(browser, act(row, "hibernate"), "Dev")
    assert status_of(row) == Status.HIBERNATED


@committed
def test_a_removal_that_cannot_stop_yet_says_so(backend: InMemoryBackend, doorbell: Doorbell):
    row = running(backend, doorbell, name="Dev")

    def refuse(_: Any) -> None:
        raise BackendError(ErrorClass.TRANSIENT, "cannot stop", detail="daemon says no", retryable=True)

    backend.before["stop"] = refuse
    answer = confirm(login("administrator"), act(row, "remove"), "Dev")
    assert "could not be stopped yet" in answer.content.decode()
    assert status_of(row) == Status.REMOVED
    assert OperatorAction.objects.get().outcome == "partly"


@committed
def test_what_became_impossible_meanwhile_is_recorded_as_refused(
    backend: InMemoryBackend, doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch
):
    """Between the last look and the effect the product's own guard decides."""
    row = running(backend, doorbell, name="Dev")
    browser = login("administrator")
    path, shown = act(row, "remove"), seen(browser, act(row, "remove"))
    from console import confirmation

    real = confirmation.act

    def grown(asked: Any, verb: Any) -> Any:
        WorkspaceFactory(parent=row, name="Newborn")
        return real(asked, verb)

    monkeypatch.setattr(confirmation, "act", grown)
    browser.post(path, {"typed": "Dev", "reason": "because", "seen": shown})
    assert status_of(row) == Status.ONLINE
    record = OperatorAction.objects.get()
    assert (record.outcome, record.result) == ("refused", "another workspace has come below it")


def test_without_a_backend_a_restart_is_not_offered():
    dispatch.wire(None)
    try:
        html = text_of(login("operator").get(act(WorkspaceFactory(), "restart")))
    finally:
        dispatch.choose_again()
    assert "provisioner not available" in html
    assert 'name="reason"' not in html


def test_a_form_of_somebody_elses_page_is_refused(backend: InMemoryBackend):
    row = WorkspaceFactory(name="Dev")
    login("administrator")
    strict = Client(enforce_csrf_checks=True)
    assert strict.login(username="a-administrator", password="a long one")
    assert strict.post(act(row, "remove"), {"typed": "Dev", "reason": "x"}).status_code == 403
    assert status_of(row) == Status.ONLINE


def test_more_than_a_page_can_list_is_not_removed_at_once(monkeypatch: pytest.MonkeyPatch):
    from console import workspace_admin

    monkeypatch.setattr(workspace_admin, "SHOWN", 2)
    root = WorkspaceFactory(name="Root")
    for number in range(2):
        WorkspaceFactory(name=f"below {number}", parent=root)
    html = text_of(login("administrator").get(act(root, "remove")))
    assert "It concerns 3 workspaces, more than 2: begin with those below it." in html
    assert 'name="reason"' not in html
