"""GET /templates, POST /templates/import, and what a template decides when a workspace is created."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from templates.configs import imported_config
from templates.listing import catalogue
from templates.loader import load_text
from templates.services import template_id
from templates.sources import start_files
from tests.clients import admin, anonymous
from tests.conftest import at_once
from tests.templates.conftest import Put
from tests.workspaces.factories import WorkspaceFactory
from workspaces.defaults import default_model, known_runtimes, provision_timeout_s
from workspaces.models import Workspace
from workspaces.runtimes import BUILT_IN

pytestmark = pytest.mark.django_db
SHIPPED = Path(django_settings.BASE_DIR) / "templates" / "catalogue" / "workspace-configs-templates"
FULL = """
name: Coder
description: Writes code
tier: 2
runtime: claude_code
skills: [a, b]
providers:
  - {name: minimax, auth_env: [MINIMAX_API_KEY]}
runtime_config:
  model: sonnet
  models: [{id: sonnet, required_env: [KEY]}]
  required_env: [KEY]
  providers: [anthropic]
  provision_timeout_seconds: 900
"""


def listed() -> Any:
    answer = admin().get("/templates")
    assert answer.status_code == 200
    return answer


def test_a_missing_folder_is_an_empty_list(settings: Any):
    settings.CONFIGS_DIR = "/nowhere/at/all"
    assert listed().json() == []


def test_entries_are_sorted_and_hold_what_the_canvas_reads(put: Put):
    put("workspace-configs-templates/b/config.yaml", FULL)
    put("workspace-configs-templates/a/config.yaml", "model: m/x\n")
    put("workspace-configs-templates/.hidden/config.yaml", "name: x\n")
    put("workspace-configs-templates/no-config/README.md", "x")
    assert listed().json() == [
        {
            "id": "a",
            "name": "a",
            "description": "",
            "tier": 3,
            "runtime": "",
            "model": "m/x",
            "skills": [],
            "skill_count": 0,
        },
        {
            "id": "b",
            "name": "Coder",
            "description": "Writes code",
            "tier": 2,
            "runtime": "claude-code",
            "model": "sonnet",
            "skills": ["a", "b"],
            "skill_count": 2,
            "models": [{"id": "sonnet", "required_env": ["KEY"]}],
            "required_env": ["KEY"],
            "providers": ["anthropic"],
            "provider_registry": [{"name": "minimax", "auth_env": ["MINIMAX_API_KEY"]}],
            "provision_timeout_seconds": 900,
        },
    ]


@pytest.mark.parametrize(
    "text",
    ["a: [", "- 1", "name: [x]", "tier: 9", "skills: x", "runtime_config: 7", "skills: [1]", "", "x: !a b"],
)
def test_a_broken_template_is_left_out_and_counted(put: Put, text: str):
    put("workspace-configs-templates/broken/config.yaml", text)
    put("workspace-configs-templates/sound/config.yaml", "name: Sound")
    answer = listed()
    assert [one["id"] for one in answer.json()] == ["sound"]
    assert answer.headers["X-Templates-Broken"] == "1"


def test_a_change_is_seen_at_once(put: Put):
    put("workspace-configs-templates/a/config.yaml", "name: One")
    assert listed().json()[0]["name"] == "One"
    put("workspace-configs-templates/a/config.yaml", "name: Other")
    assert listed().json()[0]["name"] == "Other"


def test_only_operators_see_the_catalogue():
    assert anonymous().get("/templates").status_code == 401
    assert anonymous().post("/templates/import", {"name": "x", "files": {"a": "b"}}).status_code == 401


def test_the_shipped_catalogue_has_a_sound_template_for_every_runtime(settings: Any):
    settings.CONFIGS_DIR = str(SHIPPED)
    found = catalogue()
    assert found.broken == 0
    assert {one.runtime for one in found.templates.values()} == BUILT_IN
    assert all(f"{runtime}-default" in found.templates for runtime in BUILT_IN)


# --- Import


def imported(name: str, files: dict[str, str]) -> Any:
    return admin().post("/templates/import", {"name": name, "files": files})


def test_an_import_is_written_and_listed(configs: Path):
    answer = imported(
        "My Team-Lead!", {"system-prompt.md": "Lead.", "skills/plan/SKILL.md": "x", "a/b.txt": ""}
    )
    assert (answer.status_code, answer.json()) == (
        201,
        {"status": "imported", "id": "my-team-lead", "name": "My Team-Lead!"},
    )
    folder = configs / "my-team-lead"
    assert (folder / "system-prompt.md").read_text() == "Lead."
    assert oct((folder / "system-prompt.md").stat().st_mode & 0o777) == "0o600"
    assert oct(folder.stat().st_mode & 0o777) == "0o755"
    assert load_text((folder / "config.yaml").read_text(), "c") == {
        "name": "My Team-Lead!",
        "description": "Imported agent",
        "version": "1.0.0",
        "tier": 3,
        "runtime": "langgraph",
        "model": "anthropic:claude-haiku-4-5-20251001",
        "prompt_files": ["system-prompt.md"],
        "skills": ["plan"],
        "tools": [],
        "a2a": {"port": 8000, "streaming": True, "push_notifications": True},
        "env": {"required": ["ANTHROPIC_API_KEY"], "optional": []},
    }
    (entry,) = listed().json()
    assert (entry["id"], entry["skills"], entry["tier"]) == ("my-team-lead", ["plan"], 3)


def test_a_config_that_was_given_is_kept(configs: Path):
    assert imported("x", {"config.yaml": "name: Mine\n"}).status_code == 201
    assert (configs / "x" / "config.yaml").read_text() == "name: Mine\n"


def test_the_default_tier_follows_the_deployment(configs: Path, settings: Any):
    settings.MOLECULE_DEPLOY_MODE = "saas"
    imported("hosted", {"a.md": "x"})
    assert load_text((configs / "hosted/config.yaml").read_text(), "c")["tier"] == 4


@pytest.mark.parametrize(("tier", "written"), [(0, 3), (-1, 3), (99, 3), (1, 1), (4, 4)])
def test_a_generated_tier_is_one(tier: int, written: int):
    assert load_text(imported_config(name="x", files=[], tier=tier), "c")["tier"] == written


@pytest.mark.parametrize(
    "path", ["", "..", "../x", "/etc/x", "a/../../x", "a\\b", "a\x00b", "a\nb", "x" * 256]
)
def test_an_unsafe_path_leaves_nothing_behind(configs: Path, path: str):
    answer = imported("x", {"fine.md": "x", path: "y"})
    expected = {"error": "invalid request body", "reason": "invalid path"}
    assert (answer.status_code, answer.json()) == (400, expected)
    assert os.listdir(configs) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"files": {"a": "b"}},
        {"name": " ", "files": {"a": "b"}},
        {"name": "x", "files": {}},
        {"name": "x", "files": {"a": 1}},
        {"name": "x", "files": ["a"]},
        {"name": 1, "files": {"a": "b"}},
        {"name": "x", "files": {"a": "", "./a": ""}},
        {"name": "x", "files": {"a": "", "a/b": ""}},
    ],
)
def test_a_malformed_import_is_refused(configs: Path, body: dict[str, Any]):
    answer = admin().post("/templates/import", body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid request body")
    assert os.listdir(configs) == []


def test_too_many_and_too_large_files_are_refused(configs: Path):
    answer = imported("x", {f"{number}.md": "" for number in range(201)})
    assert (answer.status_code, answer.json()["error"]) == (400, "too many files (201), max 200")
    assert imported("x", {"a.md": "x" * (1024 * 1024 + 1)}).status_code == 413
    assert os.listdir(configs) == []


def test_a_second_import_is_a_conflict(configs: Path):
    assert imported("A B", {"a.md": "first"}).status_code == 201
    answer = imported("a-b", {"a.md": "second"})
    assert (answer.status_code, answer.json()) == (409, {"error": "template already exists", "id": "a-b"})
    assert (configs / "a-b/a.md").read_text() == "first"


@pytest.mark.django_db(transaction=True)
def test_of_five_imports_at_once_one_wins(configs: Path):
    answers = at_once(*[lambda: imported("race", {f"{n}.md": "x" for n in range(50)})] * 5)
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert os.listdir(configs) == ["race"]
    assert len(os.listdir(configs / "race")) == 51


def test_a_folder_that_cannot_be_written_is_a_500_without_a_path(configs: Path, settings: Any):
    (configs / "file").write_text("")
    settings.CONFIGS_DIR = str(configs / "file")
    answer = imported("x", {"a.md": "x"})
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to import template"})


@given(
    name=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=60
    ),
    skill=st.from_regex(r"[^/\x00-\x1f\\]{1,20}", fullmatch=True),
)
@effort(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_name_breaks_out_of_the_generated_config(name: str, skill: str):
    config = load_text(imported_config(name=name, files=[f"skills/{skill}/SKILL.md"], tier=3), "c")
    assert (config["name"], config["skills"], config["tier"]) == (name, [skill], 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ops Lead", "ops-lead"), ("ÄÖ", "unnamed"), ("a_b-c D", "a_b-c-d"), ("../x", "x"), ("İX", "x")],
)
def test_the_id_of_a_name(name: str, expected: str):
    assert template_id(name) == expected


# --- Create by template


def create(**body: Any) -> Any:
    return admin().post("/workspaces", {"name": "A", **body})


@pytest.mark.parametrize(
    ("config", "given", "runtime", "model"),
    [
        ("runtime: hermes\nruntime_config: {model: m/x}", {}, "hermes", "m/x"),
        ("runtime: hermes\nmodel: top\nruntime_config: {model: m/x}", {}, "hermes", "top"),
        ("runtime: hermes\nmodel: top", {"model": "mine"}, "hermes", "mine"),
        ("runtime: hermes\nmodel: top", {"runtime": "codex"}, "codex", "top"),
        ("model: top", {"runtime": "codex"}, "codex", "top"),
        ("runtime: claude_code", {}, "claude-code", ""),
    ],
)
def test_a_template_decides_what_the_caller_left_open(
    put: Put, config: str, given: Any, runtime: str, model: str
):
    put("workspace-configs-templates/t/config.yaml", config)
    row = Workspace.objects.get(pk=create(template="t", **given).json()["id"])
    assert (row.runtime, row.template, row.tier) == (runtime, "t", 3)
    assert admin().get(f"/workspaces/{row.pk}/model").json()["model"] == model


@pytest.mark.parametrize("config", [None, "a: [", "model: x"])
def test_a_template_without_a_runtime_is_not_guessed(put: Put, configs: Path, config: str | None):
    if config:
        put("workspace-configs-templates/t/config.yaml", config)
    answer = create(template="t")
    assert (answer.status_code, answer.json()["code"]) == (422, "RUNTIME_UNRESOLVED")
    assert not Workspace.objects.exists()


def test_a_template_with_an_unknown_runtime_is_refused(put: Put):
    put("workspace-configs-templates/t/config.yaml", "runtime: fortran")
    answer = create(template="t")
    assert (answer.status_code, answer.json()["code"]) == (422, "RUNTIME_UNSUPPORTED")


@pytest.mark.parametrize("name", ["-rf", "_under", "--help", "-", "9", "A b", "!"])
def test_what_was_imported_is_listed_and_can_be_chosen(configs: Path, name: str):
    given = {"config.yaml": "runtime: langgraph\nmodel: m\n", "a.md": "x"}
    new_id = imported(name, given).json()["id"]
    assert [entry["id"] for entry in listed().json()] == [new_id]
    answer = create(template=new_id)
    assert (answer.status_code, answer.json().get("error")) == (201, None)
    row = Workspace.objects.get()
    assert (row.template, row.runtime) == (new_id, "langgraph")
    assert start_files(row, None, model="")["a.md"] == (b"x", False)


@pytest.mark.parametrize("name", ["a b", "é", "a..b", "x" * 101])
def test_a_folder_that_nobody_could_choose_is_not_listed(put: Put, configs: Path, name: str):
    put(f"{configs.name}/{name}/config.yaml", "runtime: langgraph\n")
    answer = listed()
    assert (answer.json(), answer.headers["X-Templates-Broken"]) == ([], "1")
    assert create(template=name).json() == {"error": "invalid template"}


@pytest.mark.parametrize("template", ["../etc", "/etc", "link", "a/b", "..", ".hidden", "-a/../b", "-a..b"])
def test_a_template_outside_is_refused_before_a_row(configs: Path, tmp_path: Path, template: str):
    (configs / "link").symlink_to("/etc")
    for more in ({}, {"runtime": "codex", "model": "m"}):
        answer = create(template=template, **more)
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid template"})
    assert not Workspace.objects.exists()


# --- Runtimes and their times


def manifest(tmp_path: Path, settings: Any, content: Any) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    settings.WORKSPACE_MANIFEST_PATH = str(path)


def test_the_manifest_lists_the_runtimes(tmp_path: Path, settings: Any):
    names = [{"name": " claude_code-default "}, {"name": "fortran"}, {"name": ""}]
    manifest(tmp_path, settings, {"workspace_templates": names})
    assert known_runtimes() == {"claude-code", "fortran", "external", "langgraph"}
    settings.MOLECULE_DEFAULT_RUNTIME = "cobol"
    assert "cobol" in known_runtimes()
    assert create(runtime="fortran").status_code == 201


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"workspace_templates": 7}', '{"workspace_templates": []}']
)
def test_an_unusable_manifest_means_the_built_in_ones(tmp_path: Path, settings: Any, content: str):
    manifest(tmp_path, settings, content)
    assert known_runtimes() == BUILT_IN | {"external"}
    settings.WORKSPACE_MANIFEST_PATH = "/nowhere.json"
    assert known_runtimes() == BUILT_IN | {"external"}


def test_the_longest_declared_time_of_a_runtime_counts_and_is_shown(put: Put, settings: Any):
    put("workspace-configs-templates/a/config.yaml", FULL)
    put("workspace-configs-templates/b/config.yaml", FULL.replace("900", "700"))
    put(
        "workspace-configs-templates/c/config.yaml",
        "runtime: codex\nruntime_config: {provision_timeout_seconds: -5}",
    )
    assert provision_timeout_s("claude-code") == 900
    assert (provision_timeout_s("codex"), provision_timeout_s("hermes")) == (600, 1800)
    row, other = WorkspaceFactory(runtime="claude-code"), WorkspaceFactory(runtime="codex")
    shown = {one["id"]: one for one in admin().get("/workspaces").json()}
    assert shown[str(row.pk)]["provision_timeout_ms"] == 900_000
    assert "provision_timeout_ms" not in shown[str(other.pk)]
    settings.PROVISION_TIMEOUT_SECONDS = 7
    assert provision_timeout_s("claude-code") == 7


@pytest.mark.parametrize(
    "runtime", [*sorted(BUILT_IN - {"claude-code"}), "external", "", "unknown", "CLAUDE-CODE"]
)
def test_every_runtime_but_one_has_the_general_model(runtime: str):
    assert default_model(runtime) == "anthropic:claude-opus-4-7"
    assert default_model("claude-code") == "sonnet"
