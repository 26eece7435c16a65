"""`mode=reconcile`: the tree becomes what the template says now, and nothing of anybody else's goes."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from django.db import connection

from activity.models import StructureEvent
from config import jobs
from config.errors import Conflict
from orgimport.services import pruning
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun
from provisioning.services import execution, teardown_run
from tests.clients import admin
from tests.conftest import at_once
from tests.orgimport.conftest import post
from tests.outages import statements_fail
from tests.provisioning.conftest import Doorbell
from workspaces.models import Status, Workspace
from workspaces.services import remove_workspace

pytestmark = pytest.mark.django_db(transaction=True)

CLERK, WRITER = {"name": "Clerk"}, {"name": "Writer"}
DESK = {"name": "Desk", "children": [CLERK, WRITER]}


@pytest.fixture
def backend() -> InMemoryBackend:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    return memory


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    bell = Doorbell()
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell


def org(*children: dict[str, Any], name: str = "Firm", root: str = "Lead") -> dict[str, Any]:
    return {"name": name, "workspaces": [{"name": root, "children": list(children)}]}


def reconcile(template: dict[str, Any], **more: Any) -> Any:
    return post(template=template, mode="reconcile", **more)


def live() -> list[str]:
    return sorted(Workspace.objects.live().values_list("name", flat=True))


def by_name(name: str) -> Workspace:
    return Workspace.objects.live().get(name=name)


def by_hand(name: str, parent: Workspace, **fields: Any) -> Workspace:
    return Workspace.objects.create(name=name, parent=parent, tier=3, status=Status.ONLINE, **fields)


def test_what_the_template_declares_no_more_is_removed_once():
    post(template=org(DESK, {"name": "Old", "children": [{"name": "Older"}]}))
    old = by_name("Old")
    body = reconcile(org(DESK)).json()
    assert live() == ["Clerk", "Desk", "Lead", "Writer"]
    assert body["mode"] == "reconcile"
    assert body["reconcile_removed_count"] == 2
    assert body["reconcile_removed"][0] == {"id": str(old.pk), "name": "Old", "path": "Lead/Old"}
    assert "reconcile_errors" not in body
    assert [one["refreshed"] for one in body["workspaces"]] == [True] * 4
    told = StructureEvent.objects.filter(event_type="org.import.completed").latest("seq").payload
    assert (told["mode"], told["reconcile_removed_count"], told["reconcile_errors"]) == ("reconcile", 2, [])
    again = reconcile(org(DESK)).json()
    assert (again["reconcile_removed_count"], again["created"]) == (0, 0)


def test_a_merge_removes_nothing_and_does_not_speak_of_it():
    post(template=org(DESK))
    body = post(template=org(CLERK)).json()
    assert live() == ["Clerk", "Clerk", "Desk", "Lead", "Writer"]
    assert not any(key.startswith("reconcile") for key in body)


def test_a_node_that_moved_is_a_new_one_and_the_old_one_goes():
    post(template=org(DESK, {"name": "Office"}))
    old = by_name("Clerk")
    body = reconcile(
        org({"name": "Desk", "children": [WRITER]}, {"name": "Office", "children": [CLERK]})
    ).json()
    assert by_name("Clerk").parent == by_name("Office")
    assert body["created"] == 1
    assert [one["id"] for one in body["reconcile_removed"]] == [str(old.pk)]


def test_the_same_names_of_others_stay():
    """Of another template, of the same one elsewhere, of the same one below a node of it, made by hand."""
    post(template=org(DESK))
    post(template=org(DESK, name="Other", root="Other lead"))
    anchor = Workspace.objects.create(name="Anchor", tier=3, status=Status.ONLINE)
    post(template=org(DESK), parent_id=str(anchor.pk))
    lead = Workspace.objects.live().get(name="Lead", parent=None)
    post(template=org(DESK), parent_id=str(lead.pk))
    by_hand("Mine", lead)
    before = set(Workspace.objects.live())
    desk = Workspace.objects.live().get(name="Desk", parent=lead)
    body = reconcile(org(CLERK)).json()
    gone = before - set(Workspace.objects.live())
    assert gone == {desk, *Workspace.objects.filter(parent=desk)}
    assert (body["created"], body["reconcile_removed_count"]) == (1, 3)


def test_a_former_root_goes_and_what_people_moved_out_of_the_tree_stays():
    two = {"name": "Firm", "workspaces": [{"name": "Lead", "children": [CLERK]}, {"name": "Second"}]}
    post(template=two)
    Workspace.objects.filter(name="Clerk").update(parent=None)
    body = reconcile(org()).json()
    assert [one["name"] for one in body["reconcile_removed"]] == ["Second"]
    assert live() == ["Clerk", "Lead"]


def test_only_the_roots_of_the_anchor_are_looked_at():
    anchor = Workspace.objects.create(name="Anchor", tier=3, status=Status.ONLINE)
    post(template=org(DESK))
    post(template=org(DESK), parent_id=str(anchor.pk))
    assert reconcile(org(), parent_id=str(anchor.pk)).json()["reconcile_removed_count"] == 3
    assert live() == ["Anchor", "Clerk", "Desk", "Lead", "Lead", "Writer"]


def test_what_has_somebody_elses_below_it_stays_and_is_reported_and_its_other_branches_go():
    post(template=org(DESK))
    by_hand("Mine", by_name("Clerk"))
    told = post(template=org(), mode="reconcile", dry_run=True).json()
    body = reconcile(org()).json()
    assert live() == ["Clerk", "Desk", "Lead", "Mine"]
    assert [one["name"] for one in body["reconcile_removed"]] == ["Writer"]
    reason = "stays: Mine below it is not this template's"
    assert body["reconcile_errors"] == [f"Lead/Desk: {reason}", f"Lead/Desk/Clerk: {reason}"]
    assert told["reconcile_errors"] == body["reconcile_errors"]


def test_a_node_that_is_not_spawned_is_declared():
    post(template=org(DESK))
    off = {**DESK, "spawning": False, "children": [CLERK]}
    body = reconcile(org(off, {"name": "Never", "spawning": False})).json()
    assert live() == ["Clerk", "Desk", "Lead"]
    assert [one["name"] for one in body["reconcile_removed"]] == ["Writer"]


def test_a_template_of_nothing_removes_nothing():
    post(template=org(DESK))
    nothing = {"name": "Firm", "workspaces": [{"name": "Lead", "spawning": False}]}
    assert reconcile(nothing).json()["reconcile_removed_count"] == 0
    assert post(template=nothing, mode="reconcile", dry_run=True).json()["plan"] == []
    assert live() == ["Clerk", "Desk", "Lead", "Writer"]


def test_a_walk_that_ended_early_removes_nothing():
    post(template=org(DESK))
    with statements_fail('INSERT INTO "canvas_layouts"'):
        answer = reconcile(org({"name": "New"}))
    assert (answer.status_code, answer.json()["reconcile_removed_count"]) == (207, 0)
    assert not any("refreshed" in one for one in answer.json()["workspaces"])
    assert live() == ["Clerk", "Desk", "Lead", "Writer"]


def test_a_dry_run_foretells_what_goes():
    post(template=org(DESK))
    wanted = org({"name": "Desk", "children": [WRITER]}, {"name": "Office", "children": [CLERK]})
    before = list(Workspace.objects.order_by("pk").values())
    told = post(template=wanted, mode="reconcile", dry_run=True).json()
    assert list(Workspace.objects.order_by("pk").values()) == before
    body = reconcile(wanted).json()
    done = [(one["path"], "skip" if one.get("skipped") else "create") for one in body["workspaces"]]
    done += [(one["path"], "remove") for one in body["reconcile_removed"]]
    assert [(one["path"], one["action"]) for one in told["plan"]] == done


def test_a_pruning_that_cannot_be_planned_is_reported_and_the_import_stands():
    post(template=org(DESK))
    with statements_fail('"import_key" FROM'):
        answer = reconcile(org(CLERK))
    body = answer.json()
    assert (answer.status_code, body["created"], body["reconcile_removed_count"]) == (201, 1, 0)
    assert body["reconcile_errors"] == ["nothing was removed: the database cannot be asked"]


def test_one_branch_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch):
    post(template=org(DESK, {"name": "Office"}))
    desk = by_name("Desk")

    def fails(**given: Any) -> Any:
        if given["workspace_id"] == desk.pk:
            raise Conflict("it will not go")
        return remove_workspace(**given)

    monkeypatch.setattr(pruning, "remove_workspace", fails)
    body = reconcile(org()).json()
    assert body["reconcile_errors"] == ["Lead/Desk: it will not go"]
    assert [one["name"] for one in body["reconcile_removed"]] == ["Office"]


def test_who_comes_below_a_branch_after_the_plan_saves_it(monkeypatch: pytest.MonkeyPatch):
    post(template=org(DESK))
    real = pruning.plan_pruning

    def planned(*given: Any) -> Any:
        found = real(*given)
        by_hand("Late", by_name("Writer"))
        return found

    monkeypatch.setattr(pruning, "plan_pruning", planned)
    body = reconcile(org()).json()
    assert body["reconcile_errors"] == ["Lead/Desk: another workspace has come below it"]
    assert live() == ["Clerk", "Desk", "Late", "Lead", "Writer"]


def test_who_has_been_moved_after_the_plan_stays(monkeypatch: pytest.MonkeyPatch):
    post(template=org(DESK))
    real = pruning.plan_pruning

    def planned(*given: Any) -> Any:
        found = real(*given)
        Workspace.objects.filter(name="Desk").update(parent=None)
        return found

    monkeypatch.setattr(pruning, "plan_pruning", planned)
    assert reconcile(org()).json()["reconcile_removed_count"] == 0
    assert live() == ["Clerk", "Desk", "Lead", "Writer"]


def test_of_two_at_once_each_row_is_removed_by_one():
    post(template=org(DESK, *({"name": f"Old {number}"} for number in range(6))))

    def one() -> Any:
        try:
            return reconcile(org(DESK)).json()
        finally:
            connection.close()

    bodies = at_once(one, one)
    assert sum(body["reconcile_removed_count"] for body in bodies) == 6
    assert live() == ["Clerk", "Desk", "Lead", "Writer"]
    assert not any("reconcile_errors" in body for body in bodies)


# --- Compute goes, what is stored stays


def test_compute_is_stopped_and_what_is_stored_stays_until_a_purge(backend, doorbell):
    post(template=org(DESK, {"name": "Office"}))
    doorbell.work()
    office, desk = by_name("Office"), by_name("Desk")
    assert backend.running(office.pk) == [1]
    assert reconcile(org()).json()["reconcile_removed_count"] == 4
    for row in (office, desk):
        row.refresh_from_db()
        assert (row.status, row.storage_kept, row.cleanup_pending) == (Status.REMOVED, True, False)
        assert backend.running(row.pk) == []
        assert row.pk in backend.stored
    assert backend.called("remove_storage") == []
    assert admin().delete(f"/workspaces/{office.pk}").status_code == 200
    assert office.pk in backend.stored
    assert admin().delete(f"/workspaces/{office.pk}?purge=true").json()["status"] == "purged"
    assert office.pk not in backend.stored
    assert desk.pk in backend.stored


def test_a_stop_that_is_refused_is_reported_and_its_repeat_keeps_what_is_stored(
    backend,
    doorbell,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(execution, "STOP_PAUSES_S", (0.0, 0.0))
    post(template=org({"name": "Office"}))
    doorbell.work()
    office = by_name("Office")
    backend.failures["stop"] = deque(
        [BackendError(ErrorClass.TRANSIENT, "no", detail="x", retryable=True)] * 3
    )
    body = reconcile(org()).json()
    assert body["reconcile_removed_count"] == 1
    assert body["reconcile_errors"] == ["1 stop call(s) failed; they are repeated until they succeed"]
    office.refresh_from_db()
    assert office.cleanup_pending
    run = ProvisionRun.objects.get(workspace_id=office.pk, kind="teardown")
    teardown_run(run.pk)
    office.refresh_from_db()
    assert (office.cleanup_pending, backend.running(office.pk)) == (False, [])
    assert office.pk in backend.stored


# --- Plugins


@pytest.mark.usefixtures("catalogue")
def test_a_plugin_that_was_declared_since_is_installed_and_others_stay(backend, doorbell):
    post(template=org({"name": "Office"}))
    doorbell.work()
    office = by_name("Office")
    kept = backend.stored[office.pk]["/configs"]
    wanted = org({"name": "Office", "plugins": ["audit-trail", "no-such"]})
    entry = reconcile(wanted).json()["workspaces"][1]
    assert entry["plugins"] == ["audit-trail"]
    assert entry["plugins_skipped"] == [{"workspace": "Office", "name": "no-such", "reason": "not found"}]
    assert "plugins/audit-trail/plugin.yaml" in kept
    assert "plugins" not in reconcile(wanted).json()["workspaces"][1]
    assert "plugins" not in reconcile(org({"name": "Office"})).json()["workspaces"][1]
    assert "plugins/audit-trail/plugin.yaml" in kept


@pytest.mark.usefixtures("catalogue")
def test_plugins_that_cannot_be_installed_now_are_reported(backend, doorbell):
    post(template=org({"name": "Office"}))
    wanted = org({"name": "Office", "plugins": ["audit-trail"]})
    dispatch.wire(None)
    entry = reconcile(wanted).json()["workspaces"][1]
    assert entry["refreshed"]
    assert [one["name"] for one in entry["plugins_skipped"]] == ["audit-trail"]
