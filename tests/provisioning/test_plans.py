"""The plan of a start, and the names a configuration says it cannot start without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from access.models import WorkspaceAuthToken
from access.services import delete_secret, store_secrets
from activity.models import StructureEvent
from provisioning import dispatch, preparation, services
from provisioning.backends.base import BackendError, ErrorClass, File
from provisioning.models import ProvisionRun
from provisioning.required_env import required_names
from provisioning.services import execution
from tests.clients import admin, agent_of
from tests.provisioning.conftest import queued, running, status_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Access, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)

NEEDS = b"runtime_config:\n  required_env: [OPENAI_API_KEY, GITHUB_TOKEN]\n"


@pytest.fixture
def needy(monkeypatch):
    """Every start's config.yaml asks for two names."""
    real = preparation.prepare

    def prepare(workspace, run):
        spec = real(workspace, run)
        return replace(spec, files={"config.yaml": File(NEEDS)})

    monkeypatch.setattr(execution, "prepare", prepare)
    monkeypatch.setattr("provisioning.services.plans.prepare", prepare)


def plan(row: Workspace):
    return admin().post(f"/workspaces/{row.pk}/provision-plan")


def test_a_plan_names_what_a_start_would_use_and_changes_nothing(backend, doorbell):
    row = running(backend, doorbell)
    store_secrets(workspace_id=row.pk, values={"SECRET_KEY": "the-hidden-value"})
    doorbell.rung.clear()
    before = Workspace.objects.values().get(pk=row.pk)
    counts = [model.objects.count() for model in (ProvisionRun, WorkspaceAuthToken, StructureEvent)]
    answer = plan(row)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["backend"], body["runtime"], body["tier"], body["ok"]) == ("memory", "langgraph", 3, True)
    assert {"SECRET_KEY", "WORKSPACE_ID", "PLATFORM_URL"} <= set(body["env"])
    assert body["files"] == [".auth_token", ".platform_inbound_secret", "config.yaml"]
    assert body["checks"] == {"prepare": "ok", "required_env": "ok", "backend": "ok"}
    assert {"mounts", "limits", "image", "image_digest", "instance_type"} <= set(body)
    assert "the-hidden-value" not in answer.content.decode()
    assert Workspace.objects.values().get(pk=row.pk) == before
    assert counts == [model.objects.count() for model in (ProvisionRun, WorkspaceAuthToken, StructureEvent)]
    assert (doorbell.rung, len(backend.specs)) == ([], 1)
    assert backend.called("stop") == backend.called("ensure_image")[1:] == []


def test_a_plan_says_what_is_missing(backend, doorbell, needy):
    row = WorkspaceFactory()
    store_secrets(workspace_id=row.pk, values={"GITHUB_TOKEN": "x"})
    body = plan(row).json()
    assert (body["checks"]["required_env"], body["ok"]) == ("missing: OPENAI_API_KEY", False)


def test_a_plan_says_what_cannot_be_prepared_or_made(backend, doorbell):
    row = WorkspaceFactory(workspace_access=Access.READ_ONLY)
    body = plan(row).json()
    assert body["checks"] == {"prepare": "workspace access read_only needs a workspace directory"}
    assert body["ok"] is False
    backend.dry_run = lambda spec: _refuse()
    body = plan(WorkspaceFactory()).json()
    assert (body["checks"]["backend"], body["ok"]) == ("quota reached", False)


def _refuse():
    raise BackendError(ErrorClass.QUOTA, "quota reached", detail="hidden")


def test_plans_are_for_operators_and_managed_workspaces(backend, doorbell, no_backend):
    row = WorkspaceFactory()
    assert agent_of(row.pk).post(f"/workspaces/{row.pk}/provision-plan").status_code in {401, 403}
    assert (plan(row).status_code, plan(row).json()) == (503, {"error": "provisioner not available"})
    assert plan(WorkspaceFactory(runtime=EXTERNAL)).status_code == 400


def test_a_start_without_its_required_names_fails_and_says_where_to_add_them(backend, doorbell, needy):
    row = queued()
    doorbell.work()
    row.refresh_from_db()
    assert row.status == Status.FAILED
    assert row.last_sample_error == (
        'missing required env vars "OPENAI_API_KEY", "GITHUB_TOKEN" — '
        "add them under Config → Env Vars (or as Global secrets) and retry"
    )
    event = StructureEvent.objects.get(event_type="WORKSPACE_PROVISION_FAILED")
    assert event.payload == {
        "error": row.last_sample_error,
        "missing": ["OPENAI_API_KEY", "GITHUB_TOKEN"],
    }
    assert (backend.specs, backend.called("ensure_image")) == ([], [])


def test_a_name_that_is_set_to_nothing_is_missing_and_one_with_a_value_is_not(backend, doorbell, needy):
    row = queued()
    store_secrets(workspace_id=row.pk, values={"OPENAI_API_KEY": "x", "GITHUB_TOKEN": ""})
    doorbell.work()
    assert StructureEvent.objects.get().payload["missing"] == ["GITHUB_TOKEN"]


def test_a_restart_without_them_keeps_the_old_agent_running(backend, doorbell, needy):
    row = WorkspaceFactory(status=Status.PROVISIONING)
    store_secrets(workspace_id=row.pk, values={"OPENAI_API_KEY": "x", "GITHUB_TOKEN": "y"})
    dispatch.provision_async(row)
    doorbell.work()
    assert backend.running(row.pk) == [1]
    delete_secret(workspace_id=row.pk, key="GITHUB_TOKEN")
    services.accept_restart(row.pk, {})
    doorbell.work()
    assert (status_of(row), backend.running(row.pk)) == (Status.FAILED, [1])


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (NEEDS, ["OPENAI_API_KEY", "GITHUB_TOKEN"]),
        (b"runtime_config: {required_env: [A, A, '', 3, B]}", ["A", "B"]),
        (b"runtime_config: {required_env: A}", []),
        (b"runtime_config: none", []),
        (b"- a list", []),
        (b"", []),
        (b"{ not yaml: [", []),
        (b"\xff\xfe\x00", []),
        (b"a: 1\na: 2\n", []),
    ],
)
def test_the_required_names_of_a_config(config: bytes, names: list[str]):
    assert required_names(config) == names
