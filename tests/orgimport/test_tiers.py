"""One default tier, whichever way a workspace comes to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from provisioning import dispatch
from provisioning.backends.base import File
from provisioning.backends.memory import InMemoryBackend
from templates.loader import load_text
from tests.clients import admin
from tests.orgimport.conftest import post
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def backend() -> InMemoryBackend:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    return memory


def tier_of(workspace_id: str) -> int:
    return Workspace.objects.get(pk=workspace_id).tier


def created(_: InMemoryBackend) -> int:
    return tier_of(admin().post("/workspaces", {"name": "A"}).json()["id"])


def imported_org(_: InMemoryBackend) -> int:
    return tier_of(post(template={"name": "x", "workspaces": [{"name": "A"}]}).json()["workspaces"][0]["id"])


def imported_bundle(_: InMemoryBackend) -> int:
    return tier_of(admin().post("/bundles/import", {"name": "A"}).json()["workspace_id"])


def imported_template(_: InMemoryBackend) -> int:
    body = admin().post("/templates/import", {"name": "t", "files": {"a.md": "x"}}).json()
    return written((Path(django_settings.CONFIGS_DIR) / body["id"] / "config.yaml").read_bytes())


def written_files(memory: InMemoryBackend) -> int:
    row = WorkspaceFactory()
    memory.stored[row.pk] = {"/configs": {"a.md": File(b"x")}}
    assert admin().put(f"/workspaces/{row.pk}/files", {"files": {"b.md": "y"}}).status_code == 200
    return written(memory.stored[row.pk]["/configs"]["config.yaml"].content)


def written(config: bytes) -> int:
    found: Any = load_text(config, "config.yaml")
    return int(found["tier"])


@pytest.mark.parametrize(("mode", "tier"), [("", 3), ("saas", 4)])
@pytest.mark.parametrize(
    "way",
    [created, imported_org, imported_bundle, imported_template, written_files],
    ids=lambda way: way.__name__,
)
def test_the_default_tier_is_the_deployments(
    settings: Any, backend: InMemoryBackend, way: Callable[[InMemoryBackend], int], mode: str, tier: int
):
    settings.MOLECULE_DEPLOY_MODE = mode
    assert way(backend) == tier
