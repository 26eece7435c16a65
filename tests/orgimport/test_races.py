"""The same import from many sides at once, and after a process that died half way: one tree."""

from __future__ import annotations

import pytest

from access.models import WorkspaceAuthToken
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun
from tests.conftest import at_once
from tests.orgimport.conftest import post
from workspaces.models import CanvasLayout, Workspace

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("catalogue", "keys"),
    pytest.mark.timeout(300),
]
NODES = 64


def test_five_imports_at_once_make_one_tree():
    dispatch.wire(InMemoryBackend())
    answers = at_once(*[lambda: post(dir="big")] * 5)
    assert [answer.status_code for answer in answers] == [201] * 5
    bodies = [answer.json() for answer in answers]
    assert [body["count"] for body in bodies] == [NODES] * 5
    assert sum(body["created"] for body in bodies) == NODES
    assert len({tuple(entry["id"] for entry in body["workspaces"]) for body in bodies}) == 1
    ids = set(Workspace.objects.live().values_list("pk", flat=True))
    assert len(ids) == NODES
    assert set(CanvasLayout.objects.values_list("pk", flat=True)) == ids
    runs = list(ProvisionRun.objects.values_list("workspace_id", flat=True))
    assert sorted(runs) == sorted(ids)
    assert not WorkspaceAuthToken.objects.exists()
