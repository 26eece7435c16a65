"""What is listed can be imported, what is foretold happens, and no node gets what another one was given."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from memory.models import AgentMemory
from orgimport.env_files import parse
from orgimport.reading import InvalidTemplate, read_template
from orgimport.services import walk
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun
from provisioning.services import sweeps
from templates.copying import BUNDLE_BYTES
from templates.services import stored_files
from tests.clients import admin
from tests.orgimport.conftest import Put, post
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def broken(name: str) -> Any:
    rows = admin().get("/org/templates?include_broken=1").json()
    return next(one for one in rows if one["dir"] == name).get("reason")


def warnings(node: dict[str, Any], **top: Any) -> list[tuple[str, str]]:
    template = read_template({"name": "x", "workspaces": [{"name": "A", **node}], **top}, key="k", root=None)
    return [(one["path"], one["key"]) for one in template.warnings]


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_slash_in_a_name_mixes_up_no_two_nodes(is_turned: bool):
    roots = [
        {"name": "S/Ops", "system_prompt": "the root"},
        {"name": "S", "children": [{"name": "Ops", "system_prompt": "the child"}]},
    ]
    answer = post(template={"name": "x", "workspaces": roots[::-1] if is_turned else roots})
    assert answer.status_code == 201
    assert {one["path"] for one in answer.json()["workspaces"]} == {"S~1Ops", "S", "S/Ops"}
    prompts = {row.name: stored_files(row.pk).get("system-prompt.md") for row in Workspace.objects.all()}
    assert prompts == {"S/Ops": b"the root", "S": None, "Ops": b"the child"}


def test_a_node_that_moved_from_a_slash_to_a_child_is_reconciled(put: Put):
    put("own/org.yaml", "name: x\nworkspaces:\n- {name: S, children: [{name: A/B}]}\n- {name: S/A}\n")
    assert post(dir="own").json()["created"] == 3
    put("own/org.yaml", "name: x\nworkspaces:\n- {name: S, children: [{name: A, children: [{name: B}]}]}\n")
    answer = post(dir="own", mode="reconcile").json()
    assert (answer["created"], answer["reconcile_removed_count"]) == (2, 2)
    assert sorted(Workspace.objects.live().values_list("name", flat=True)) == ["A", "B", "S"]


def test_memories_for_an_org_below_a_parent_are_told_of():
    parent = WorkspaceFactory(name="P")
    template = {"name": "x", "workspaces": [{"name": "A"}], "global_memories": [{"content": "c"}]}
    below = post(template=template, parent_id=str(parent.pk)).json()
    assert below["warnings"] == [{"path": "", "key": "global_memories"}]
    assert not AgentMemory.objects.exists()
    assert post(template=template).json()["warnings"] == []
    assert AgentMemory.objects.get().scope == "GLOBAL"


@pytest.mark.parametrize("url", [1, [1], {"a": 1}])
def test_an_address_of_a_wrong_type_is_wrong_wherever_the_node_runs(url: Any):
    with pytest.raises(InvalidTemplate, match="A url: must be a text"):
        warnings({"url": url})


def test_what_is_left_out_of_a_memory_or_a_place_is_warned_of():
    memory = {"content": "c", "scope": "GLOB", "note": 1}
    assert warnings({"initial_memories": [{"content": "c", "scope": "team"}, memory]}) == [
        ("A", "initial_memories[1].scope"),
        ("A", "initial_memories[1].note"),
    ]
    assert warnings({}, global_memories=[memory])[0] == ("", "global_memories[0].scope")
    assert warnings({"canvas": {"x": 1, "y": 2, "z": 3}}) == [("A", "canvas.z")]


def test_a_folder_elsewhere_with_the_same_name_is_another_template(put: Put, tmp_path: Path):
    put("same/org.yaml", "name: x\nworkspaces: [{name: A, children: [{name: K}]}]\n")
    assert post(dir="same").json()["created"] == 2
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "org.yaml").write_text("name: y\nworkspaces: [{name: B}]\n")
    call_command("import_org", str(tmp_path / "same"), "--reconcile")
    assert sorted(Workspace.objects.live().values_list("name", flat=True)) == ["A", "B", "K"]


def test_a_start_that_cannot_be_written_down_ends_no_import():
    """The rows have been committed: the sweep finds them, and the answer does not deny them."""
    dispatch.wire(InMemoryBackend())
    with statements_fail("provision_runs"):
        answer = post(template={"name": "x", "workspaces": [{"name": "L", "children": [{"name": "a"}]}]})
    assert (answer.status_code, answer.json()["count"]) == (201, 2)
    assert not ProvisionRun.objects.exists()
    while sweeps.requeue(timezone.now() + timedelta(minutes=1)):
        pass
    assert ProvisionRun.objects.count() == 2


def test_the_node_whose_parent_went_is_named(monkeypatch: pytest.MonkeyPatch):
    nodes = [{"name": name, "children": [{"name": f"{name}1"}]} for name in ("A", "B")]
    real = walk.Walk._level

    def removes(self: walk.Walk, level: Any) -> Any:
        Workspace.objects.filter(name="B").update(status=Status.REMOVED)
        return real(self, level)

    monkeypatch.setattr(walk.Walk, "_level", removes)
    answer = post(template={"name": "x", "workspaces": nodes})
    assert answer.status_code == 207
    told = "import stopped at B/B1: its parent workspace was removed meanwhile"
    assert (answer.json()["error"], answer.json()["count"]) == (told, 2)


def test_a_variable_whose_value_names_a_variable_is_unresolved(put: Put):
    put("own/org.yaml", "name: x\nworkspaces: [{name: A, workspace_dir: '${REC}/x'}]\n")
    put("own/.env", "REC=/srv/${REC}\n")
    (error,) = post(dir="own").json()["errors"]
    assert error == {
        "path": "A",
        "field": "workspace_dir",
        "message": "has variables without a value: ${REC}",
    }


def test_a_mark_of_byte_order_is_no_part_of_a_key():
    assert parse("\ufeffA_KEY=1\n") == ({"A_KEY": "1"}, [])


def test_a_problem_is_told_once():
    answer = post(template={"name": "x", "workspaces": {}})
    errors = [tuple(one.values()) for one in answer.json()["errors"]]
    assert len(errors) == len(set(errors))


def test_a_folder_whose_name_cannot_be_asked_for_is_broken(put: Put):
    put("ok yml/org.yml", "name: x\nworkspaces: [{name: A}]\n")
    assert post(dir="ok yml").status_code == 400
    assert broken("ok yml") == "template_invalid"


def test_an_address_nobody_may_call_is_broken_in_the_list_too(put: Put):
    node = "{name: A, external: true, url: 'http://169.254.169.254/x'}"
    put("meta/org.yaml", f"name: x\nworkspaces: [{node}]\n")
    assert post(dir="meta").status_code == 400
    assert broken("meta") == "template_invalid"
    put("named/org.yaml", "name: x\nworkspaces: [{name: A, external: true, url: 'http://agent.invalid/x'}]\n")
    assert broken("named") is None  # its name may lead somewhere later


def test_files_too_large_are_told_by_the_list_and_foretold(put: Put, catalogue: Path):
    put("heavy/org.yaml", "name: x\nworkspaces: [{name: A, files_dir: files}]\n")
    (catalogue / "heavy" / "files").mkdir()
    with (catalogue / "heavy" / "files" / "model.bin").open("wb") as sparse:
        sparse.truncate(BUNDLE_BYTES + 1)
    told = [post(dir="heavy", dry_run=wish).json()["errors"] for wish in (True, False)]
    assert told[0] == told[1] != []
    assert broken("heavy") == "template_invalid"
    with (catalogue / "heavy" / "files" / "model.bin").open("wb") as sparse:
        sparse.truncate(10)
    assert broken("heavy") is None
