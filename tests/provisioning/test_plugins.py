"""Plugins: the catalogue, a workspace's own, and the restart that makes its agent read them."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun
from tests.clients import admin, agent_of, anonymous
from tests.provisioning.conftest import queued, running
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def shelf(settings: Any, tmp_path: Path) -> Path:
    settings.PLUGINS_DIR = str(tmp_path)
    for name, more in (("careful", "runtimes: [claude_code]"), ("audit", "tags: [a]\nskills: [audit]")):
        (tmp_path / name / "skills").mkdir(parents=True)
        (tmp_path / name / "plugin.yaml").write_text(f"name: {name}\nversion: 1.0.0\n{more}\n")
        (tmp_path / name / "skills/SKILL.md").write_bytes(b"# skill\r\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/plugin.yaml").write_text("a: [")
    (tmp_path / "careful/.env").write_text("SECRET=1")
    return tmp_path


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200
    return [one["name"] for one in answer.json()]


def of(row: Workspace, tail: str = "") -> str:
    return f"/workspaces/{row.pk}/plugins{tail}"


def test_the_catalogue_is_public_and_knows_runtimes() -> None:
    assert names(anonymous().get("/plugins")) == ["audit", "careful"]
    assert names(anonymous().get("/plugins", runtime="langgraph")) == ["audit"]
    assert names(anonymous().get("/plugins", runtime="claude-code")) == ["audit", "careful"]
    assert anonymous().get("/plugins/sources").json() == {"schemes": ["local"]}
    assert anonymous().get("/plugins").json()[0] == {
        "name": "audit", "version": "1.0.0", "description": "", "author": "", "tags": ["a"],
        "skills": ["audit"], "runtimes": [],
    }  # fmt: skip


def test_an_empty_catalogue_is_an_empty_list(settings: Any, tmp_path: Path) -> None:
    settings.PLUGINS_DIR = str(tmp_path / "none")
    assert anonymous().get("/plugins").json() == []


def test_a_plugin_is_installed_shown_and_uninstalled_each_with_a_restart(backend: Any, doorbell: Any) -> None:
    row = running(backend, doorbell)
    assert names(admin().get(of(row))) == []
    assert names(admin().get(of(row, "/available"))) == ["audit"]
    answer = admin().post(of(row), {"source": "local://careful"})
    assert (answer.status_code, answer.json()) == (200, {"status": "installed", "plugin": "careful"})
    kept = backend.stored[row.pk]["/configs"]
    assert kept["plugins/careful/skills/SKILL.md"].content == b"# skill\n"
    assert "plugins/careful/.env" not in kept
    doorbell.work()
    assert ProvisionRun.objects.filter(workspace_id=row.pk).latest("generation").trigger == (
        "mutation:plugin:careful"
    )
    (shown,) = admin().get(of(row)).json()
    assert (shown["name"], shown["supported_on_runtime"]) == ("careful", False)
    (other,) = admin().get(of(row, "/compatibility"), runtime="claude_code").json()
    assert other["supported_on_runtime"] is True
    gone = admin().delete(of(row, "/careful"))
    assert (gone.status_code, gone.json()) == (200, {"status": "uninstalled", "plugin": "careful"})
    assert names(admin().get(of(row))) == []
    assert admin().delete(of(row, "/careful")).status_code == 404
    doorbell.work()
    assert ProvisionRun.objects.filter(workspace_id=row.pk).count() == 3


@pytest.mark.parametrize(
    ("source", "status"),
    [("git://x", 400), ("careful", 400), ("local://../audit", 400), ("local://", 400), ("local://none", 404)],
)
def test_a_source_that_is_none_is_refused(backend: Any, doorbell: Any, source: str, status: int) -> None:
    row = running(backend, doorbell)
    before = dict(backend.stored[row.pk]["/configs"])
    assert admin().post(of(row), {"source": source}).status_code == status
    assert admin().post(of(row), {}).status_code == 400
    assert backend.stored[row.pk]["/configs"] == before
    assert ProvisionRun.objects.filter(workspace_id=row.pk).count() == 1


def test_a_failed_installation_restarts_nothing(backend: Any, doorbell: Any) -> None:
    row = running(backend, doorbell)
    backend.failures["write_files"].append(BackendError(ErrorClass.INTERNAL, "inside"))
    assert admin().post(of(row), {"source": "local://audit"}).status_code == 500
    assert admin().post(of(queued()), {"source": "local://audit"}).status_code == 503
    assert (
        admin().post(of(WorkspaceFactory(runtime="external")), {"source": "local://audit"}).status_code == 409
    )
    doorbell.work()
    assert ProvisionRun.objects.filter(workspace_id=row.pk).count() == 1


def test_a_plugin_is_downloaded_as_a_packet(backend: Any, doorbell: Any) -> None:
    row = running(backend, doorbell)
    answer = agent_of(row.pk).get(of(row, "/careful/download"), source="local://careful")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/gzip")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(answer.content))) as packet:
        assert sorted(packet.getnames()) == ["careful/plugin.yaml", "careful/skills/SKILL.md"]
    assert admin().get(of(row, "/none/download")).status_code == 404
    assert admin().get(of(row, "/audit/download"), source="local://careful").status_code == 404


def test_other_workspaces_plugins_are_nobodys_business(backend: Any, doorbell: Any) -> None:
    row, other = running(backend, doorbell), WorkspaceFactory()
    for tail in ("", "/available", "/compatibility", "/audit/download"):
        assert anonymous().get(of(row, tail)).status_code == 401
        assert agent_of(other.pk).get(of(row, tail)).status_code == 401
    assert agent_of(other.pk).post(of(row), {"source": "local://audit"}).status_code == 401
    assert agent_of(other.pk).delete(of(row, "/audit")).status_code == 401
