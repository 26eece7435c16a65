"""POST /org/import: a tree, once."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import GlobalSecret, WorkspaceSecret
from access.services import read_secret, save_global_secret
from activity.models import StructureEvent
from activity.tally import tally
from orgimport.reading import read_template
from orgimport.services import Import, Mode, import_org
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import IMPORT, ProvisionRun
from templates.services import stored_files
from tests.clients import admin, anonymous
from tests.orgimport.conftest import Put, post, tree
from tests.outages import database_away, statements_fail
from workspaces.models import CanvasLayout, Status, Workspace
from workspaces.services import remove_workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("catalogue")]


def counts() -> tuple[int, ...]:
    tables = (Workspace.objects.live(), CanvasLayout.objects, WorkspaceSecret.objects, ProvisionRun.objects)
    told = StructureEvent.objects.filter(event_type__startswith="WORKSPACE_")
    return (*(rows.count() for rows in tables), told.count())


def by_name(name: str) -> Workspace:
    return Workspace.objects.live().get(name=name)


def place(name: str) -> tuple[float, float]:
    row = CanvasLayout.objects.get(workspace=by_name(name))
    return row.x, row.y


@pytest.fixture
def backend() -> InMemoryBackend:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    return memory


@pytest.mark.usefixtures("keys", "backend")
def test_a_template_becomes_a_tree():
    answer = post(dir="small")
    body = answer.json()
    assert answer.status_code == 201
    assert (body["org"], body["count"], body["created"], body["skipped"]) == ("Bakery Back Office", 3, 3, 0)
    assert [one["name"] for one in body["workspaces"]] == ["Coordinator", "Bookkeeper", "Menu Writer"]
    lead = by_name("Coordinator")
    assert lead.parent_id is None
    assert {one.parent_id for one in lead.children.all()} == {lead.pk}
    assert [place(one["name"]) for one in body["workspaces"]] == [(100, 100), (116, 230), (370, 230)]
    assert (lead.max_concurrent_tasks, lead.import_template, lead.import_key) == (3, "small", "Coordinator")
    assert by_name("Bookkeeper").tier == 2
    assert read_secret(by_name("Menu Writer").pk, "MODEL_PROVIDER") == "sonnet"
    assert ProvisionRun.objects.filter(trigger=IMPORT, generation=1).count() == 3
    entry = body["workspaces"][0]
    missing = "missing env: [${TELEGRAM_BOT_TOKEN}, ${TELEGRAM_CHAT_ID}]"
    assert entry["channels_skipped"] == [{"workspace": "Coordinator", "type": "telegram", "reason": missing}]
    assert entry["schedules"] == ["morning-plan"]
    assert "schedules_skipped" not in entry
    assert b"You coordinate" in (stored_files(lead.pk)["system-prompt.md"] or b"")


@pytest.mark.usefixtures("keys", "backend")
def test_a_second_import_changes_nothing_and_says_so():
    first = post(dir="small").json()
    before = counts()
    answer = post(dir="small")
    body = answer.json()
    assert (answer.status_code, body["count"], body["created"], body["skipped"]) == (201, 3, 0, 3)
    assert all(one["skipped"] for one in body["workspaces"])
    assert [one["id"] for one in body["workspaces"]] == [one["id"] for one in first["workspaces"]]
    assert counts() == before


@pytest.mark.usefixtures("keys", "backend")
def test_a_child_that_was_removed_comes_back_where_its_parent_stands_now():
    post(dir="small")
    lead, gone = by_name("Coordinator"), by_name("Menu Writer")
    remove_workspace(workspace_id=gone.pk, confirmed=True)
    CanvasLayout.objects.filter(workspace=lead).update(x=1000, y=500)
    body = post(dir="small").json()
    assert [one.get("skipped", False) for one in body["workspaces"]] == [True, True, False]
    assert by_name("Menu Writer").pk != gone.pk
    assert by_name("Menu Writer").parent_id == lead.pk
    assert place("Menu Writer") == (1270, 630)


@pytest.mark.usefixtures("keys")
def test_a_skipped_entry_shows_what_is_stored_and_a_hand_made_row_is_adopted():
    row = Workspace.objects.create(name="Coordinator", tier=1, status=Status.ONLINE)
    entry = post(dir="small").json()["workspaces"][0]
    assert (entry["id"], entry["tier"], entry["status"], entry["skipped"]) == (str(row.pk), 1, "online", True)
    row.refresh_from_db()
    assert row.import_template is None


@pytest.mark.usefixtures("keys")
def test_frames_tell_of_parents_first_with_the_place_in_them(published: list[Any]):
    post(dir="twelve")
    frames = [one for one in published if one.event == "WORKSPACE_PROVISIONING"]
    assert len(frames) == 12
    seen: set[str] = set()
    for frame in frames:
        parent = frame.payload.get("parent_id")
        assert parent is None or parent in seen
        seen.add(str(frame.workspace_id))
        at = CanvasLayout.objects.get(pk=frame.workspace_id)
        above = CanvasLayout.objects.get(pk=parent) if parent else CanvasLayout(x=0, y=0)
        assert (frame.payload["x"], frame.payload["y"]) == (at.x - above.x, at.y - above.y)
    partner = [one.event for one in published if one.workspace_id == by_name("Partner Agent").pk]
    assert partner == ["WORKSPACE_PROVISIONING", "WORKSPACE_ONLINE"]


@pytest.mark.usefixtures("keys", "backend")
def test_an_external_node_is_online_without_a_start():
    post(dir="twelve")
    row = by_name("Partner Agent")
    assert (row.runtime, row.status, row.url, row.delivery_mode) == (
        "external",
        "online",
        "https://lab.example.org/a2a",
        "push",
    )
    assert not ProvisionRun.objects.filter(workspace_id=row.pk).exists()
    assert admin().post(f"/workspaces/{row.pk}/external/rotate").status_code == 200


@pytest.mark.usefixtures("keys", "backend")
def test_files_secrets_and_plugins_reach_the_workspace_and_no_env_file_does(settings: Any, put: Put):
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    put("twelve/eng-lead/.env", "TEAM_TOKEN=of-the-team\n")
    body = post(dir="twelve").json()
    row = by_name("Engineering Lead")
    assert (row.workspace_dir, row.workspace_access) == ("/srv/clinic", "read_write")
    assert read_secret(row.pk, "CLINIC_REPO") == "/srv/clinic"
    assert read_secret(row.pk, "TEAM_TOKEN") == "of-the-team"
    stored = WorkspaceSecret.objects.get(workspace=row, key="TEAM_TOKEN")
    assert stored.encryption_version > 0
    assert b"of-the-team" not in bytes(stored.encrypted_value)
    files = stored_files(row.pk)
    assert not [path for path in files if path.endswith(".env")]
    assert {"config.yaml", "system-prompt.md", "plugins/audit-trail/plugin.yaml"} <= set(files)
    config = (files["config.yaml"] or b"").decode()
    assert "idle_interval_seconds: 900" in config
    assert "Backend Engineer" in config
    entry = next(one for one in body["workspaces"] if one["name"] == "Frontend Engineer")
    assert entry["plugins"] == ["audit-trail"]
    assert "of-the-team" not in str(body)


@pytest.mark.usefixtures("keys", "backend")
def test_no_value_of_an_env_file_is_told_logged_or_recorded(settings: Any, put: Put, caplog: Any):
    caplog.set_level("DEBUG")
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    put("small/.env", "TEAM_TOKEN=never-to-be-seen\n")
    body = post(dir="small").text
    assert read_secret(by_name("Coordinator").pk, "TEAM_TOKEN") == "never-to-be-seen"
    recorded = str(list(StructureEvent.objects.values()))
    for text in (body, caplog.text, recorded, str(stored_files(by_name("Coordinator").pk))):
        assert text
        assert "never-to-be-seen" not in text


@pytest.mark.usefixtures("keys")
@pytest.mark.timeout(120)
def test_sixty_four_nodes_do_not_keep_a_client_waiting():
    began = time.monotonic()
    assert post(dir="big").json()["created"] == 64
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("keys")
def test_without_a_backend_the_rows_are_there_and_say_why_they_do_not_run():
    assert post(dir="small").status_code == 201
    assert set(Workspace.objects.values_list("status", flat=True)) == {Status.FAILED}
    assert "no provisioning backend" in str(by_name("Coordinator").last_sample_error)


# --- Variables that must be set


def test_missing_variables_are_a_412_and_nothing_is_written():
    answer = post(dir="small", force=True)
    body = answer.json()
    group = {"any_of": ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"]}
    assert answer.status_code == 412
    assert body["error"] == "missing required environment variables"
    assert body["missing_env"] == body["required_env"] == [group]
    assert body["template"] == "Bakery Back Office"
    assert body["suggestion"]
    assert not Workspace.objects.exists()
    save_global_secret(key="CLAUDE_CODE_OAUTH_TOKEN", value="x")
    assert post(dir="small").status_code == 201


def test_a_global_secret_that_holds_nothing_counts_as_missing():
    GlobalSecret.objects.create(key="ANTHROPIC_API_KEY", encrypted_value=b"")
    assert post(dir="small").status_code == 412


def test_a_variable_of_one_node_may_come_from_its_own_env_file(put: Put):
    put("mine/org.yaml", "name: x\nworkspaces: [{name: A, files_dir: a, required_env: [A_KEY]}]\n")
    put("mine/a/readme.md", "hello")
    answer = post(dir="mine")
    assert answer.status_code == 412
    assert answer.json()["error"] == "missing per-workspace required environment variables"
    assert answer.json()["missing_workspace_env"] == [
        {"workspace": "A", "path": "A", "files_dir": "a", "unsatisfied_env": ["A_KEY"]}
    ]
    put("mine/a/.env", "A_KEY=1")
    assert post(dir="mine").status_code == 201


def test_variables_that_cannot_be_verified_are_a_500_and_nothing_is_written():
    with statements_fail("global_secrets"):
        answer = post(dir="small")
    assert answer.status_code == 500
    assert answer.json() == {"error": "could not verify required environment variables; try again"}
    assert not Workspace.objects.exists()


# --- What goes wrong half way


@pytest.mark.usefixtures("keys", "backend")
def test_a_level_that_fails_is_not_there_and_the_next_import_completes_the_tree():
    failures = Faults(level=2)
    with connection.execute_wrapper(failures):
        answer = post(dir="small")
    body = answer.json()
    assert (answer.status_code, body["count"], body["created"]) == (207, 1, 1)
    assert body["error"].startswith("import stopped at Coordinator/Bookkeeper: ")
    assert "driver" not in str(body)
    assert Workspace.objects.count() == CanvasLayout.objects.count() == ProvisionRun.objects.count() == 1
    again = post(dir="small")
    assert (again.status_code, again.json()["created"], again.json()["skipped"]) == (201, 2, 1)


class Faults:
    """The database refuses a part of the given level: the layouts, after its rows were inserted."""

    def __init__(self, level: int) -> None:
        self.left = level

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if 'INSERT INTO "canvas_layouts"' in sql:
            self.left -= 1
            if not self.left:
                from django.db import ProgrammingError

                raise ProgrammingError("driver text")
        return execute(sql, params, many, context)


@pytest.mark.usefixtures("keys", "backend")
def test_a_look_up_that_fails_fails_the_import_and_inserts_nothing():
    post(dir="small")
    remove_workspace(workspace_id=by_name("Bookkeeper").pk, confirmed=True)
    before = counts()
    statements: list[str] = []

    def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch), statements_fail("AS wanted(parent_id, name)"):
        answer = post(dir="small")
    assert (answer.status_code, answer.json()["count"]) == (207, 0)
    assert counts() == before
    assert sum("INSERT INTO workspaces" in one for one in statements) == 1


@pytest.mark.usefixtures("keys")
def test_an_import_without_a_database_writes_nothing_and_answers():
    with database_away():
        answer = post(dir="small")
    assert answer.status_code in {500, 503}
    assert not Workspace.objects.exists()


@pytest.mark.usefixtures("keys")
def test_every_started_import_is_told_to_have_ended():
    post(dir="small")
    GlobalSecret.objects.all().delete()
    post(dir="twelve")
    told = StructureEvent.objects.filter(event_type__startswith="org.import").order_by("seq")
    assert [one.event_type.rpartition(".")[2] for one in told] == [
        "started",
        "completed",
        "started",
        "failed",
    ]
    done = told[1].payload
    assert (done["name"], done["dir"], done["mode"], done["actor"]) == (
        "Bakery Back Office",
        "small",
        "merge",
        "admin-token",
    )
    assert (done["created_count"], done["skipped_count"], done["create_error"]) == (3, 0, "")


@pytest.mark.usefixtures("keys")
def test_imports_are_counted():
    tally.forget()
    post(dir="small")
    post(dir="small")
    tally.flush()
    text = admin().get("/metrics").content.decode()
    assert 'molecule_org_import_total{result="completed"} 2' in text
    assert 'molecule_org_import_nodes_total{outcome="created"} 3' in text
    assert 'molecule_org_import_nodes_total{outcome="skipped"} 3' in text


# --- The request


@pytest.mark.parametrize("name", ["../x", "/etc", "a/../../b", ".", "x\x00", "-x", "a/b", "x" * 129])
def test_a_dir_that_is_no_name_is_refused(name: str):
    answer = post(dir=name)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid org directory"})


def test_what_cannot_be_imported_is_said_plainly():
    assert post(dir="no-such").json() == {"error": "org template not found"}
    assert post(dir="no-such").status_code == 404
    for empty in ({}, {"dir": ""}, {"template": {}}):
        assert post(**empty).json() == {"error": "provide 'dir' or 'template'"}
    assert post(dir="small", mode="replace").json() == {"error": "unsupported mode"}
    assert post(dir=5, template="x").json() == {"error": "invalid request body"}
    assert post(dir="small", parent_id=str(uuid4())).json() == {"error": "parent workspace not found"}
    assert not Workspace.objects.exists()


def test_only_operators_import():
    assert anonymous().post("/org/import", {"dir": "small"}).status_code == 401
    assert anonymous().get("/org/templates").status_code == 401


def test_an_inline_template_imports_and_points_at_no_files():
    answer = post(template={"name": "Mine", "workspaces": [{"name": "A", "children": [{"name": "B"}]}]})
    assert (answer.status_code, answer.json()["count"]) == (201, 2)
    assert by_name("B").import_template == "inline:Mine"
    refused = post(template={"name": "Mine", "workspaces": [{"name": "A", "files_dir": "x"}]})
    assert refused.json()["errors"][0]["field"] == "files_dir"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("wish", ["off", "yes", "", 0, 1, None, []], ids=repr)
def test_a_wish_that_is_neither_true_nor_false_imports_nothing(wish: Any):
    """`"off"` must not be the real thing, and `"no"` no preview."""
    answer = post(dir="small", dry_run=wish)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid request body")
    assert not Workspace.objects.exists()


@pytest.mark.usefixtures("keys")
def test_a_dry_run_writes_nothing_and_foretells_the_import():
    post(dir="small")
    remove_workspace(workspace_id=by_name("Menu Writer").pk, confirmed=True)
    before = counts()
    told = post(dir="small", dry_run=True)
    assert told.status_code == 200
    assert counts() == before
    done = post(dir="small").json()["workspaces"]
    assert [(one["path"], one["action"]) for one in told.json()["plan"]] == [
        (one["path"], "skip" if one.get("skipped") else "create") for one in done
    ]


# --- Places on the canvas


def test_a_root_without_a_place_stands_right_of_what_is_there():
    three = [{"name": "B1"}, {"name": "B2"}, {"name": "B3"}]
    children = [{"name": "A"}, {"name": "B", "children": three}, {"name": "C"}]
    post(template={"name": "One", "workspaces": [{"name": "R", "children": children}]})
    assert [place(name) for name in ("R", "A", "B", "C")] == [(100, 100), (116, 230), (656, 230), (116, 664)]
    assert [place(name) for name in ("B1", "B2", "B3")] == [(672, 360), (926, 360), (672, 504)]
    at_nowhere = {"name": "S", "canvas": {"x": 0, "y": 0}}
    post(template={"name": "Two", "workspaces": [at_nowhere, {"name": "T"}]})
    assert [place("S"), place("T")] == [(100 + 1098 + 80, 100), (1278 + 240 + 80, 100)]


def test_a_tree_below_a_workspace_takes_the_next_slots(published: list[Any]):
    anchor = Workspace.objects.create(name="Anchor", tier=3, status=Status.ONLINE)
    CanvasLayout.objects.create(workspace=anchor, x=10, y=20)
    Workspace.objects.create(name="There", tier=3, status=Status.ONLINE, parent=anchor)
    answer = post(template={"name": "X", "workspaces": [{"name": "New"}]}, parent_id=str(anchor.pk))
    assert answer.status_code == 201
    assert by_name("New").parent_id == anchor.pk
    assert place("New") == (10 + 270, 20 + 130)
    frame = next(one for one in published if one.event == "WORKSPACE_PROVISIONING")
    assert (frame.payload["x"], frame.payload["y"]) == (270, 130)


def test_a_tree_may_not_grow_too_deep():
    above: UUID | None = None
    for number in range(63):
        row = Workspace.objects.create(name=f"L{number}", tier=3, status=Status.ONLINE, parent_id=above)
        above = row.pk
    fits = post(template={"name": "X", "workspaces": [{"name": "A"}]}, parent_id=str(above))
    assert fits.status_code == 201
    deep = {"name": "X", "workspaces": [{"name": "B", "children": [{"name": "C"}]}]}
    assert post(template=deep, parent_id=str(above)).status_code == 409


# --- Budgets


@pytest.mark.parametrize(("nodes", "depth"), [(10, 2), (500, 4), (5000, 5)])
@pytest.mark.timeout(300)
def test_statements_grow_with_the_depth_and_not_with_the_nodes(settings: Any, nodes: int, depth: int):
    """Of external agents: nothing is started, so every statement is the import's own."""
    settings.ORG_IMPORT_MAX_WORKSPACES = 5000
    template = read_template(tree(nodes, external=True), key="", root=None)
    for expected in ("created", "skipped"):
        with CaptureQueriesContext(connection) as queries:
            outcome = import_org(Import(template, None, "", "test"))
        assert getattr(outcome, expected) == nodes
        assert len(queries) <= 20 + 12 * depth, [one["sql"][:100] for one in queries]


def test_schedules_cost_the_same_for_many_workspaces():
    counts = []
    for nodes in (2, 11):
        plain = tree(nodes, external=True, name=f"Tree {nodes}")
        plain["workspaces"][0]["name"] = f"Root {nodes}"
        _schedule_each(plain["workspaces"][0])
        template = read_template(plain, key=f"t{nodes}", root=None)
        for mode in (Mode.MERGE, Mode.RECONCILE):
            with CaptureQueriesContext(connection) as queries:
                outcome = import_org(Import(template, None, "", "test", mode))
            assert "schedules_skipped" not in outcome.entries[-1]
            asked = [one for one in queries if "workspace_schedules" in one["sql"]]
            counts.append((nodes, mode, len(asked)))
            if mode == Mode.MERGE:
                assert len(queries) <= 20 + 12 * 2
    assert [count for nodes, _, count in counts if nodes == 2] == [
        count for nodes, _, count in counts if nodes == 11
    ]


def _schedule_each(node: dict[str, Any]) -> None:
    node["schedules"] = [{"cron_expr": "0 9 * * *", "prompt": "plan"}] * 2
    for child in node["children"]:
        _schedule_each(child)
