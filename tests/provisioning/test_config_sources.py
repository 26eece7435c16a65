"""Which files a start brings: its template's, those chosen at a restart, and nothing over edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioning.models import RunState
from templates.copying import BUNDLE_BYTES
from templates.loader import load_text
from templates.services import store_files
from tests.clients import admin
from tests.provisioning.conftest import queued, run_of, running, status_of
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def put(settings: Any):
    root = Path(settings.CONFIGS_DIR)

    def write(path: str, content: str | bytes) -> Path:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        return target

    return write


def named(row: Workspace, **fields: Any) -> Workspace:
    Workspace.objects.filter(pk=row.pk).update(**fields)
    row.refresh_from_db()
    return row


def restart(row: Workspace, **body: Any) -> str:
    answer = admin().post(f"/workspaces/{row.pk}/restart", body)
    assert answer.status_code == 200
    return str(answer.json()["config_dir"])


def files_of(backend: Any) -> dict[str, bytes]:
    return {name: file.content for name, file in backend.specs[-1].files.items() if name[0] != "."}


def config_of(backend: Any) -> Any:
    return load_text(files_of(backend)["config.yaml"], "config.yaml")


def stored(backend: Any, row: Workspace, name: str) -> bytes:
    content: bytes = backend.stored[row.pk]["/configs"][name].content
    return content


def test_without_a_template_a_config_is_made_of_the_row(backend, doorbell):
    running(backend, doorbell)
    row = Workspace.objects.get()
    assert set(files_of(backend)) == {"config.yaml"}
    assert config_of(backend) == {
        "name": row.name,
        "description": row.role or "",
        "role": row.role or "",
        "version": "1.0.0",
        "tier": row.tier,
        "runtime": row.runtime,
        "model": "anthropic:claude-opus-4-7",
        "runtime_config": {"timeout": 0},
    }


@pytest.mark.parametrize(
    ("template", "expected"),
    [("mine", b"mine"), ("gone", b"default"), ("../etc", b"default"), (None, b"default")],
)
def test_a_first_start_takes_the_rows_template_else_its_runtimes(backend, doorbell, put, template, expected):
    put("mine/config.yaml", "name: Mine\nmodel: m/x\nskills: [plan]\n")
    put("mine/system-prompt.md", "mine")
    put("langgraph-default/config.yaml", "name: D\n")
    put("langgraph-default/system-prompt.md", "default")
    row = named(queued(), template=template)
    doorbell.work()
    assert files_of(backend)["system-prompt.md"] == expected
    assert config_of(backend)["name"] == row.name
    if template == "mine":
        assert (config_of(backend)["model"], config_of(backend)["skills"]) == ("m/x", ["plan"])


def test_the_runtimes_own_folder_is_the_last_resort_before_a_made_config(backend, doorbell, put):
    put("langgraph/config.yaml", "name: D\n")
    put("langgraph/a.txt", "x")
    running(backend, doorbell)
    assert files_of(backend)["a.txt"] == b"x"


def test_links_and_private_files_stay_and_line_ends_become_unix(backend, doorbell, put, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s")
    put("langgraph-default/config.yaml", "name: D\n")
    put("langgraph-default/run.sh", b"a\r\nb\r\n")
    put("langgraph-default/data.bin", b"a\r\nb")
    put("langgraph-default/.env", "KEY=1")
    put("langgraph-default/.git/config", "x")
    (put("langgraph-default/skills/a.md", "x").parent / "link.md").symlink_to(secret)
    running(backend, doorbell)
    files = files_of(backend)
    assert (files["run.sh"], files["data.bin"]) == (b"a\nb\n", b"a\r\nb")
    assert set(files) == {"config.yaml", "run.sh", "data.bin", "skills/a.md"}


@pytest.mark.parametrize("defect", ["broken", "large"])
def test_a_template_that_cannot_be_copied_whole_fails_the_start(backend, doorbell, put, defect):
    put("langgraph-default/config.yaml", "tier: [\n" if defect == "broken" else "name: D\n")
    if defect == "large":
        put("langgraph-default/big.bin", b"x" * (BUNDLE_BYTES + 1))
    row = queued()
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, backend.specs) == (Status.FAILED, [])
    assert "langgraph-default" in (row.last_sample_error or "")
    assert "/" not in (row.last_sample_error or "")


def test_a_plain_restart_replaces_nothing_that_is_there(backend, doorbell, put):
    put("langgraph-default/config.yaml", "name: D\n")
    put("langgraph-default/system-prompt.md", "first")
    row = running(backend, doorbell)
    before = stored(backend, row, "config.yaml")
    put("langgraph-default/system-prompt.md", "changed in the catalogue")
    assert restart(row) == "existing-volume"
    doorbell.work()
    assert stored(backend, row, "system-prompt.md") == b"first"
    assert stored(backend, row, "config.yaml") == before


def test_an_empty_volume_gets_its_files_again(backend, doorbell, put):
    put("langgraph-default/config.yaml", "name: D\n")
    put("langgraph-default/system-prompt.md", "first")
    row = running(backend, doorbell)
    backend.stored.clear()
    restart(row)
    doorbell.work()
    assert stored(backend, row, "system-prompt.md") == b"first"


def test_a_template_chosen_at_a_restart_replaces_what_is_stored(backend, doorbell, put):
    row = running(backend, doorbell)
    put("other/config.yaml", "name: Other\nmodel: m/other\n")
    put("other/system-prompt.md", "other")
    assert restart(row, template="other") == "other"
    doorbell.work()
    assert stored(backend, row, "system-prompt.md") == b"other"
    assert (config_of(backend)["name"], config_of(backend)["model"]) == (row.name, "m/other")
    put("other/system-prompt.md", "newer")
    assert restart(row) == "existing-volume"
    doorbell.work()
    assert stored(backend, row, "system-prompt.md") == b"other"


@pytest.mark.parametrize("template", ["../etc", "/etc", "gone", "link", 7, None, ""])
def test_a_template_that_is_none_is_ignored(backend, doorbell, put, settings, template):
    row = running(backend, doorbell)
    put("x/config.yaml", "name: X\n")
    (Path(settings.CONFIGS_DIR) / "link").symlink_to("/etc")
    assert restart(row, template=template) == "existing-volume"


@pytest.mark.parametrize(
    ("folder", "config"),
    [("ops-lead", "name: X\n"), ("team", "name: oPs LEAD\n"), ("langgraph-default", "name: D\n")],
)
def test_apply_template_finds_the_one_called_like_the_workspace_else_its_runtimes(
    backend, doorbell, put, folder, config
):
    row = named(running(backend, doorbell), name="Ops Lead")
    put(f"{folder}/config.yaml", config)
    put("ws-other/config.yaml", "name: Ops Lead\n")
    assert restart(row, apply_template=True) == folder
    doorbell.work()
    assert run_of(row, 2).state == RunState.STARTED
    assert restart(row, apply_template="yes") == "existing-volume"


def test_rebuild_config_looks_among_the_org_templates(backend, doorbell, put):
    row = named(running(backend, doorbell), name="Ops Lead")
    put("../org-templates/ops-lead/notes.md", "of the org")
    assert restart(row, rebuild_config=True) == "org-templates/ops-lead"
    doorbell.work()
    assert stored(backend, row, "notes.md") == b"of the org"
    assert restart(named(row, name="Nobody"), rebuild_config=True) == "existing-volume"


def test_a_source_that_went_before_the_start_says_so(backend, doorbell, put):
    row = running(backend, doorbell)
    config = put("other/config.yaml", "name: Other\n")
    assert restart(row, template="other") == "other"
    config.unlink()
    config.parent.rmdir()
    doorbell.work()
    row.refresh_from_db()
    assert "is not installed any more" in (run_of(row).error_safe or row.last_sample_error)
    assert backend.running(row.pk) != [] or status_of(row) == Status.FAILED


def test_the_required_names_of_the_template_hold_a_start_back(backend, doorbell, put):
    put("langgraph-default/config.yaml", "runtime_config: {required_env: [NEEDED_KEY]}\n")
    row = queued()
    doorbell.work()
    row.refresh_from_db()
    assert row.last_sample_error == (
        'missing required env var "NEEDED_KEY" — '
        "add it under Config → Env Vars (or as a Global secret) and retry"
    )
    assert row.status == Status.FAILED


def test_stored_files_lie_above_the_template_and_deleted_ones_stay_away(backend, doorbell, put):
    put("langgraph-default/config.yaml", "name: D\n")
    put("langgraph-default/system-prompt.md", "of the template")
    put("langgraph-default/gone.md", "x")
    row = queued()
    store_files(
        {
            (row.pk, "system-prompt.md"): b"of the org",
            (row.pk, "plugins/p/a.md"): b"p",
            (row.pk, "gone.md"): None,
        }
    )
    doorbell.work()
    files = files_of(backend)
    assert set(files) == {"config.yaml", "system-prompt.md", "plugins/p/a.md"}
    assert files["system-prompt.md"] == b"of the org"
    restart(row, apply_template=True)
    doorbell.work()
    assert stored(backend, row, "system-prompt.md") == b"of the template"
    assert stored(backend, row, "plugins/p/a.md") == b"p"


def test_template_and_stored_files_together_are_bounded(backend, doorbell, put):
    put("langgraph-default/config.yaml", "name: D\n")
    put("langgraph-default/big.bin", b"x" * (BUNDLE_BYTES - 1000))
    row = queued()
    store_files({(row.pk, "more.bin"): b"x" * 1000})
    doorbell.work()
    row.refresh_from_db()
    assert (row.status, backend.specs) == (Status.FAILED, [])
    assert str(BUNDLE_BYTES) in (row.last_sample_error or "")
