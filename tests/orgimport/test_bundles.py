"""Bundles: out of a live tree, and into a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from access.services import store_secrets
from orgimport.services import bundles
from provisioning import dispatch
from provisioning.backends.base import BackendError, ErrorClass, File
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun
from templates.loader import load_text
from templates.services import stored_files
from tests.clients import admin, agent_of, anonymous
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import CanvasLayout, Status, Workspace
from workspaces.services import remove_workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def backend() -> InMemoryBackend:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    return memory


def stored(backend: InMemoryBackend, row: Workspace, files: dict[str, bytes]) -> None:
    backend.stored[row.pk] = {"/configs": {path: File(content) for path, content in files.items()}}


def imported(bundle: Any) -> Any:
    return admin().post("/bundles/import", bundle)


def exported(row: Workspace) -> Any:
    answer = admin().get(f"/bundles/export/{row.pk}")
    assert answer.status_code == 200, answer.content
    return answer.json()


SKILL = b"---\nname: x\n---\n# Title\n\nFinds leaks.\nMore.\n"
KEY = "ghp_" + "a1B2c3D4" * 5


@pytest.fixture
def team(backend: InMemoryBackend) -> Workspace:
    lead = WorkspaceFactory(name="Lead", role="leads", tier=2, runtime="codex")
    member = WorkspaceFactory(name="Member", parent=lead)
    WorkspaceFactory(name="Gone", parent=lead, status=Status.REMOVED)
    store_secrets(workspace_id=lead.pk, values={"MODEL_PROVIDER": "openai/gpt", "PASSWORD": "hunter2hunter2"})
    files = {
        "config.yaml": b"name: Lead\nruntime: codex\ntier: 2\n",
        "system-prompt.md": f"You lead. {KEY}\n".encode(),
        "notes/a.md": b"a\n",
        "skills/leaks/SKILL.md": SKILL,
        "skills/leaks/run.py": b"pass\n",
        ".env": b"SECRET=1",
        ".auth_token": b"secret-token",
        "picture.png": b"\x89PNG\xff",
    }
    stored(backend, lead, files)
    stored(backend, member, {"config.yaml": b"name: Member\nruntime: langgraph\n"})
    return lead


def test_a_bundle_holds_the_live_tree_and_nothing_secret(team: Workspace) -> None:
    bundle = exported(team)
    plain = ("schema", "id", "name", "description", "tier", "model", "version")
    assert {key: bundle[key] for key in plain} == {
        "schema": "1.0", "id": str(team.pk), "name": "Lead", "description": "leads", "tier": 2,
        "model": "openai/gpt", "version": "1.0.0",
    }  # fmt: skip
    assert bundle["system_prompt"].startswith("You lead. [REDACTED:")
    assert sorted(bundle["prompts"]) == ["config.yaml", "notes/a.md"]
    assert bundle["skills"] == [
        {"id": "leaks", "name": "leaks", "description": "Finds leaks.",
         "files": {"SKILL.md": SKILL.decode(), "run.py": "pass\n"}},
    ]  # fmt: skip
    assert [one["name"] for one in bundle["sub_workspaces"]] == ["Member"]
    text = str(bundle)
    assert not [one for one in ("hunter2", "secret-token", "SECRET=1", KEY) if one in text]
    assert (bundle["tools"], bundle["author"], bundle["agent_card"]) == ([], "", None)


def test_export_and_import_make_the_same_tree_again(team: Workspace, backend: InMemoryBackend) -> None:
    bundle = exported(team)
    remove_workspace(workspace_id=team.pk, confirmed=True)
    answer = imported(bundle)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    root = Workspace.objects.get(pk=body["workspace_id"])
    assert (root.name, root.role, root.tier, root.runtime) == ("Lead", "leads", 2, "codex")
    assert (root.source_bundle_id, root.pk != team.pk) == (str(team.pk), True)
    (child,) = Workspace.objects.live().filter(parent=root)
    assert body["children"] == [{"workspace_id": str(child.pk), "name": "Member", "status": "provisioning"}]
    files = stored_files(root.pk)
    assert files["skills/leaks/SKILL.md"] == SKILL
    assert load_text(files["config.yaml"] or b"", "config.yaml")["model"] == "openai/gpt"
    assert ProvisionRun.objects.filter(workspace_id__in=[root.pk, child.pk]).count() == 2
    at = {one.pk: (one.x, one.y) for one in CanvasLayout.objects.filter(pk__in=[root.pk, child.pk])}
    assert at[child.pk] == (at[root.pk][0] + 16, at[root.pk][1] + 130)
    again = {**exported(root), "id": "", "prompts": {}}
    assert again["sub_workspaces"][0]["name"] == "Member"


def test_a_live_root_is_duplicated_under_another_name(team: Workspace) -> None:
    bundle = exported(team)
    names = [imported(bundle).json()["name"] for _ in range(2)]
    assert names == ["Lead (2)", "Lead (3)"]
    assert Workspace.objects.live().filter(name="Member").count() == 3


def test_a_root_whose_names_are_all_taken_is_a_conflict(backend: InMemoryBackend) -> None:
    Workspace.objects.bulk_create(
        Workspace(name="Lead" if number == 1 else f"Lead ({number})", tier=1, status=Status.ONLINE)
        for number in range(1, 21)
    )
    answer = imported({"name": "Lead", "sub_workspaces": [{"name": "Member"}]})
    assert answer.status_code == 409
    told = answer.json()
    assert (told["workspace_id"], told["status"], told["error"]) == (
        None,
        "failed",
        "workspace name already in use",
    )
    assert told["children"][0]["error"] == "its parent was not created"
    assert Workspace.objects.count() == 20


def test_an_imported_config_says_what_the_workspace_is(backend: InMemoryBackend) -> None:
    config = "name: Other\nruntime: claude_code\ntier: 1\nmodel: m\nextra: kept\n"
    body = imported({"name": "Mine", "tier": 0, "prompts": {"config.yaml": config}}).json()
    row = Workspace.objects.get(pk=body["workspace_id"])
    assert (row.runtime, row.tier) == ("claude-code", 3)
    found = load_text(stored_files(row.pk)["config.yaml"] or b"", "config.yaml")
    kept = {key: found[key] for key in ("name", "tier", "runtime", "extra")}
    assert kept == {"name": "Mine", "tier": 3, "runtime": "claude-code", "extra": "kept"}


@pytest.mark.parametrize(
    "bundle",
    [
        [], "x", {"name": 1}, {"name": "A", "tier": 9}, {"name": "A", "tier": True},
        {"name": "A", "prompts": []},
        {"name": "A", "prompts": {"../x": ""}}, {"name": "A", "prompts": {"a": 1}},
        {"name": "A", "skills": [{"id": "../x", "files": {}}]}, {"name": "A", "skills": [{"files": {}}]},
        {"name": "A", "skills": [{"id": "s", "files": {"/etc/x": ""}}]},
        {"name": "A", "prompts": {"config.yaml": "runtime: nope"}},
        {"name": "A", "prompts": {"config.yaml": "["}},
        {"name": "A", "prompts": {"config.yaml": "runtime: 5"}},
        {"name": "A", "prompts": {"config.yaml/x": "y"}},
        {"name": "A", "skills": [{"id": "s", "files": {"": "y"}}]},
        {"name": "A", "schema": "2.0"}, {"name": "A", "tools": "x"}, {"name": "A", "tools": ["x"]},
        {"name": "A", "agent_card": "x"}, {"name": "A", "model": "x" * 101}, {"name": "A", "model": "a\nb"},
        {"name": "A" * 256}, {"name": "A", "skills": [{"id": "..", "files": {}}]},
        {"name": "A", "sub_workspaces": [{"name": "B", "sub_workspaces": [7]}]}, {"name": "a\nb"},
    ],
)  # fmt: skip
def test_a_bundle_with_a_fault_anywhere_creates_nothing(backend: InMemoryBackend, bundle: Any) -> None:
    answer = imported(bundle)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid bundle")
    assert not Workspace.objects.exists()


def test_every_workspace_needs_a_name(backend: InMemoryBackend) -> None:
    for bundle in ({"name": "  "}, {"name": "A", "sub_workspaces": [{"name": ""}]}):
        answer = imported(bundle)
        assert (answer.status_code, answer.json()["error"]) == (400, "bundle name is required")
    deep: dict[str, Any] = {"name": "leaf"}
    for _ in range(12):
        deep = {"name": "node", "sub_workspaces": [deep]}
    wide = {"name": "root", "sub_workspaces": [{"name": f"n{number}"} for number in range(500)]}
    for bundle in (deep, wide):
        assert imported(bundle).status_code == 400
    assert not Workspace.objects.exists()


def test_a_child_that_fails_takes_its_own_with_it_and_nobody_else(
    backend: InMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bundles.store_files

    def store(files: Any) -> None:
        if any(path == "breaks.md" for _, path in files):
            with statements_fail("workspace_files"):
                real(files)
        real(files)

    monkeypatch.setattr(bundles, "store_files", store)
    broken = {"name": "Broken", "prompts": {"breaks.md": "x"}, "sub_workspaces": [{"name": "Below"}]}
    answer = imported({"name": "Root", "sub_workspaces": [broken, {"name": "Fine"}]})
    assert answer.status_code == 207
    first, second = answer.json()["children"]
    assert (first["workspace_id"], first["status"], second["status"]) == (None, "failed", "provisioning")
    assert first["children"][0]["status"] == "failed"
    assert sorted(Workspace.objects.values_list("name", flat=True)) == ["Fine", "Root"]
    failed = imported({"name": "R", "prompts": {"breaks.md": "x"}})
    assert (failed.status_code, failed.json()["status"]) == (500, "failed")


def test_without_a_backend_the_tree_is_there_and_says_why_it_does_not_run() -> None:
    answer = imported({"name": "Root", "sub_workspaces": [{"name": "Child"}]})
    assert (answer.status_code, answer.json()["status"]) == (201, "failed")
    assert "error" in answer.json()
    assert Workspace.objects.live().count() == 2


def test_a_tree_that_cannot_be_read_whole_is_not_exported(team: Workspace, monkeypatch: Any) -> None:
    def torn(*_: Any) -> Any:
        raise BackendError(ErrorClass.INTERNAL, "inside", detail="/secret/path")

    monkeypatch.setattr(dispatch._backend(), "read_file", torn)
    answer = admin().get(f"/bundles/export/{team.pk}")
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to export bundle"})


def test_who_may_and_what_is_no_bundle(team: Workspace) -> None:
    path = f"/bundles/export/{team.pk}"
    assert anonymous().get(path).status_code == 401
    assert agent_of(team.pk).get(path).status_code in {401, 403}
    assert anonymous().post("/bundles/import", {"name": "A"}).status_code == 401
    gone = Workspace.objects.get(name="Gone")
    for unknown in (gone.pk, WorkspaceFactory.build().pk):
        answer = admin().get(f"/bundles/export/{unknown}")
        assert (answer.status_code, answer.json()["error"]) == (404, "bundle not found")
    assert admin().get("/bundles/export/no-uuid").status_code == 400


def test_a_template_is_what_a_workspace_without_storage_exports(
    settings: Any, backend: InMemoryBackend
) -> None:
    folder = Path(settings.CONFIGS_DIR) / "tutor"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: T\nruntime: langgraph\n")
    (folder / "system-prompt.md").write_text("Teach.")
    row = WorkspaceFactory(template="tutor")
    assert exported(row)["system_prompt"] == "Teach."
    assert exported(WorkspaceFactory(name="tutor-like"))["system_prompt"] == ""


def test_what_an_org_template_may_be_called_comes_in_again(backend: InMemoryBackend) -> None:
    row = WorkspaceFactory(name="R&D [core]!")
    answer = imported(exported(row))
    assert (answer.status_code, answer.json()["name"]) == (201, "R&D [core]! (2)")


def test_a_workspace_that_runs_elsewhere_stays_one(backend: InMemoryBackend) -> None:
    lead = WorkspaceFactory(name="Lead")
    WorkspaceFactory(name="Laptop", parent=lead, runtime="external")
    answer = imported(exported(lead))
    assert answer.status_code == 201, answer.content
    (child,) = Workspace.objects.filter(pk=answer.json()["children"][0]["workspace_id"])
    assert (child.runtime, child.status) == ("external", Status.AWAITING_AGENT)
    assert not ProvisionRun.objects.filter(workspace_id=child.pk).exists()


def test_a_workspace_without_a_config_keeps_its_runtime(backend: InMemoryBackend) -> None:
    row = WorkspaceFactory(name="Bare", runtime="codex")
    stored(backend, row, {"system-prompt.md": b"Be."})
    answer = imported(exported(row))
    assert Workspace.objects.get(pk=answer.json()["workspace_id"]).runtime == "codex"


def test_skills_of_any_name_and_depth_come_in_again(team: Workspace, backend: InMemoryBackend) -> None:
    deep = "/".join("abcdefghijk")
    files = {
        f"skills/s1/{deep}/x.py": b"deep\n",
        "skills/_priv/SKILL.md": b"p\n",
        "skills/-d e/SKILL.md": b"q\n",
    }
    stored(backend, team, {"config.yaml": b"name: Lead\nruntime: codex\n", **files})
    body = imported(exported(team)).json()
    kept = stored_files(Workspace.objects.get(pk=body["workspace_id"]).pk)
    assert {path: kept[path] for path in files} == files


def test_more_files_than_one_upload_holds_come_in_again(team: Workspace, backend: InMemoryBackend) -> None:
    files = {f"notes/{number}.md": b"n\n" for number in range(203)}
    stored(backend, team, {"config.yaml": b"name: Lead\nruntime: codex\n", **files})
    body = imported(exported(team)).json()
    kept = stored_files(Workspace.objects.get(pk=body["workspace_id"]).pk)
    assert files.keys() <= kept.keys()


def test_no_part_of_a_bundle_shows_a_credential(team: Workspace, backend: InMemoryBackend) -> None:
    Workspace.objects.filter(pk=team.pk).update(
        role=f"uses {KEY}", agent_card={"name": "x", "skills": [{"note": KEY}]}
    )
    files = {
        ".env.local": KEY.encode(),
        "pw.env": b"hush-hush",
        "app/.env.production/x": b"hush-hush",
        "envoy.md": b"shown\n",
    }
    stored(backend, team, {"config.yaml": b"name: Lead\nruntime: codex\n", **files})
    bundle = exported(team)
    assert KEY not in str(bundle)
    assert "hush-hush" not in str(bundle)
    assert bundle["description"].startswith("uses [REDACTED:")
    assert bundle["agent_card"]["name"] == "x"
    assert sorted(bundle["prompts"]) == ["config.yaml", "envoy.md"]


def test_files_too_large_together_are_refused_before_anything_is_made(backend: InMemoryBackend) -> None:
    files = {f"f{number}.md": "x" * 1024 * 1024 for number in range(17)}
    answer = imported({"name": "A", "prompts": files})
    assert (answer.status_code, Workspace.objects.count()) == (413, 0)
