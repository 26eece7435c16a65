"""The dispatcher's verbs, with and without a backend."""

from __future__ import annotations

import json
import socket
import time
from uuid import uuid4

import pytest

from activity.models import StructureEvent
from provisioning import checks, dispatch, services
from provisioning.backends.base import BackendError
from provisioning.backends.docker import answers
from provisioning.models import ProvisionRun
from tests.clients import admin
from tests.provisioning.docker_engine import NO_ENGINE
from tests.workspaces.factories import WorkspaceFactory
from workspaces import defaults
from workspaces.models import Status, Workspace, WorkspaceConfig

pytestmark = pytest.mark.django_db(transaction=True)

MESSAGE = (
    "no provisioning backend available: this workspace needs a Docker daemon (self-hosted) "
    "or the EC2 backend (SaaS)"
)


def test_creating_without_a_backend_fails_the_row_at_once(no_backend, doorbell, caplog):
    answer = admin().post("/workspaces", {"name": "A"})
    assert (answer.status_code, answer.json()["status"]) == (201, "provisioning")
    row = Workspace.objects.get(pk=answer.json()["id"])
    assert (row.status, row.last_sample_error) == (Status.FAILED, MESSAGE)
    failed = StructureEvent.objects.filter(event_type="WORKSPACE_PROVISION_FAILED")
    assert [event.payload for event in failed] == [{"error": MESSAGE}]
    fields = {
        "workspace_id": str(row.pk),
        "name": "A",
        "tier": 3,
        "runtime": "langgraph",
        "template": "",
        "sync": False,
    }
    assert f"evt: provision.start {json.dumps(fields, sort_keys=True)}" in caplog.text
    assert WorkspaceConfig.objects.get(pk=row.pk).data == {
        "name": "A", "runtime": "langgraph", "tier": 3, "template": None
    }  # fmt: skip
    assert not ProvisionRun.objects.exists()
    assert not doorbell.rung


def test_stopping_pausing_and_deleting_without_a_backend_succeed(no_backend, doorbell):
    row = WorkspaceFactory()
    dispatch.stop(row.pk)
    assert admin().post(f"/workspaces/{row.pk}/pause").json() == {"status": "paused", "paused_count": 1}
    assert admin().delete(f"/workspaces/{row.pk}?confirm=true").status_code == 200
    row.refresh_from_db()
    assert (row.status, row.cleanup_pending) == (Status.REMOVED, False)


@pytest.mark.parametrize(("route", "status"), [("restart", Status.ONLINE), ("resume", Status.PAUSED)])
def test_starting_without_a_backend_is_refused_and_changes_nothing(no_backend, doorbell, route, status):
    row = WorkspaceFactory(status=status)
    answer = admin().post(f"/workspaces/{row.pk}/{route}")
    assert (answer.status_code, answer.json()) == (503, {"error": "provisioner not available"})
    after = Workspace.objects.get(pk=row.pk)
    assert (after.status, after.generation, after.updated_at) == (status, 1, row.updated_at)
    assert not StructureEvent.objects.exists()


def test_an_automatic_restart_without_a_backend_changes_nothing(no_backend, doorbell):
    row = WorkspaceFactory()
    assert not services.request_restart(row.pk, services.Trigger.MUTATION, "secret")
    assert not doorbell.rung


def test_what_needs_a_backend_says_so(no_backend):
    with pytest.raises(BackendError) as raised:
        dispatch.list_managed()
    assert (raised.value.error_class, raised.value.safe_message) == ("no_backend", MESSAGE)


@pytest.mark.parametrize(
    ("setting", "label"), [("process", "process"), ("none", "none"), ("docker", "docker")]
)
def test_the_settings_choose_the_backend(settings, tmp_path, setting, label):
    settings.PROVISIONER, settings.DATA_DIR = setting, str(tmp_path)
    dispatch.choose_again()
    assert dispatch.label() == label
    assert dispatch.has_provisioner() is (label != "none")
    dispatch.choose_again()


@pytest.mark.docker
def test_auto_takes_the_engine_that_answers(settings):
    settings.PROVISIONER = "auto"
    dispatch.choose_again()
    assert answers(), NO_ENGINE
    assert dispatch.label() == "docker"
    dispatch.choose_again()


def test_auto_without_an_engine_is_none(settings, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    settings.PROVISIONER = "auto"
    dispatch.choose_again()
    assert dispatch.label() == "none"
    dispatch.choose_again()


def test_an_engine_that_hangs_is_none_within_seconds(settings, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        settings.PROVISIONER = "auto"
        dispatch.choose_again()
        began = time.monotonic()
        assert dispatch.label() == "none"
        assert time.monotonic() - began < 10
    dispatch.choose_again()


def test_an_explicit_backend_is_wired_even_if_it_does_not_answer(settings, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    settings.PROVISIONER = "docker"
    dispatch.choose_again()
    with pytest.raises(BackendError) as raised:
        dispatch.stop(uuid4())
    assert (raised.value.error_class, raised.value.retryable) == ("transient", True)
    assert "container engine does not answer" in raised.value.safe_message
    dispatch.choose_again()


def test_a_tenant_whose_cloud_is_not_described_gets_none(settings, caplog):
    """Never containers on a machine that tenants share."""
    settings.PROVISIONER, settings.MOLECULE_ORG_ID = "auto", "org"
    settings.EC2_AMI_ID, settings.EC2_SUBNET_IDS, settings.EC2_SECURITY_GROUP_IDS = "ami-1", [], ["sg-1"]
    dispatch.choose_again()
    assert not dispatch.has_provisioner()
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert "EC2_SUBNET_IDS" in record.getMessage()
    assert "EC2_AMI_ID" not in record.getMessage()
    dispatch.choose_again()


@pytest.mark.parametrize(("provisioner", "org"), [("auto", "org"), ("ec2", "")])
def test_instances_are_wired_for_a_tenant_or_by_name(settings, provisioner, org):
    settings.PROVISIONER, settings.MOLECULE_ORG_ID = provisioner, org
    settings.EC2_AMI_ID, settings.EC2_SUBNET_IDS, settings.EC2_SECURITY_GROUP_IDS = "ami-1", ["s"], ["g"]
    dispatch.choose_again()
    assert dispatch.label() == "cp"
    assert dispatch.offers("boot_bundle")
    assert defaults.is_saas()
    assert defaults.default_tier() == 4
    settings.MOLECULE_ORG_ID, settings.PROVISIONER = "", "process"
    dispatch.choose_again()
    assert not defaults.is_saas()
    dispatch.choose_again()


@pytest.mark.parametrize(
    ("provisioner", "org", "found"),
    [
        ("ec2", "", ["provisioning.E006"] * 2),
        ("auto", "org", ["provisioning.W001"] * 2),
        ("auto", "", []),
        ("process", "org", []),
    ],
)
def test_settings_that_instances_need_are_named_at_boot(settings, provisioner, org, found):
    settings.PROVISIONER, settings.MOLECULE_ORG_ID = provisioner, org
    settings.EC2_AMI_ID, settings.EC2_SUBNET_IDS, settings.EC2_SECURITY_GROUP_IDS = "ami-1", [], []
    messages = checks.instances_can_be_made(None)
    assert [message.id for message in messages] == found
    settings.EC2_SUBNET_IDS, settings.EC2_SECURITY_GROUP_IDS, settings.EC2_DATA_VOLUME_GB = ["s"], ["g"], 8
    assert [one.id for one in checks.instances_can_be_made(None)] == ["provisioning.E007"][: len(found)]


@pytest.mark.parametrize(
    ("provisioner", "environment", "found"),
    [
        ("process", "", []),
        ("process", "production", ["provisioning.E003"]),
        ("auto", "production", []),
        ("docker", "production", []),
        ("ec2", "production", []),
        ("kubernetes", "", ["provisioning.E002"]),
    ],
)
def test_a_provisioner_that_cannot_be_used_is_refused_at_boot(settings, provisioner, environment, found):
    settings.PROVISIONER, settings.MOLECULE_ENV = provisioner, environment
    assert [message.id for message in checks.provisioner_is_usable(None)] == found


@pytest.mark.parametrize(
    ("tiers", "ports", "found"),
    [
        ([], "18000-18999", []),
        (["3", "4"], "18000", []),
        (["2"], "18000-18999", ["provisioning.E010"]),
        (["all"], "18000-18999", ["provisioning.E010"]),
        ([], "18999-18000", ["provisioning.E011"]),
        ([], "0-9", ["provisioning.E011"]),
        ([], "many", ["provisioning.E011"]),
    ],
)
def test_settings_of_containers_are_refused_at_boot(settings, tiers, ports, found):
    settings.DOCKER_HOST_ACCESS_TIERS, settings.MOLECULE_T4_PORT_RANGE = tiers, ports
    assert [message.id for message in checks.containers_are_configured(None)] == found


def test_two_different_deploy_modes_are_refused(settings):
    settings.MOLECULE_DEPLOY_MODE, settings.MOLECULE_DEPLOYMENT_MODE = "saas", "self-hosted"
    assert [message.id for message in checks.deploy_mode_is_stated_once(None)] == ["provisioning.E004"]
    settings.MOLECULE_DEPLOYMENT_MODE = "saas"
    assert checks.deploy_mode_is_stated_once(None) == []


def test_a_debounce_shorter_than_the_health_check_is_refused(settings):
    settings.RESTART_DEBOUNCE_SECONDS, settings.HEALTH_SWEEP_SECONDS = 10, 15
    assert [one.id for one in checks.debounce_outlasts_the_health_check(None)] == ["provisioning.E005"]


@pytest.mark.parametrize(
    ("mode", "org", "wired", "is_saas"),
    [
        ("saas", "", False, True), (" SaaS ", "", False, True), ("self-hosted", "org", True, False),
        ("selfhosted", "org", False, False), ("standalone", "org", False, False),
        ("prod", "org", True, False),
        ("", "org", False, True), ("", "", True, True), ("", "", False, False),
    ],
)  # fmt: skip
def test_the_deploy_mode_decides_the_default_tier(settings, monkeypatch, mode, org, wired, is_saas):
    settings.MOLECULE_DEPLOY_MODE, settings.MOLECULE_ORG_ID = mode, org
    monkeypatch.setattr(defaults, "instances_wired", lambda: wired)
    assert defaults.is_saas() is is_saas
    assert defaults.default_tier() == (4 if is_saas else 3)


def test_defaults_per_runtime(settings):
    assert [defaults.clamped_tier(tier) for tier in (0, 1, 4, 9)] == [3, 1, 4, 3]
    assert defaults.default_model("claude-code") == "sonnet"
    assert defaults.default_model("CLAUDE-CODE") == defaults.default_model("") == "anthropic:claude-opus-4-7"
    assert (defaults.provision_timeout_s("hermes"), defaults.provision_timeout_s("codex")) == (1800, 600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults, "instances_wired", lambda: True)
        assert [defaults.provision_timeout_s(one) for one in ("hermes", "codex")] == [1800, 720]
    settings.PROVISION_TIMEOUT_SECONDS = 5
    assert defaults.provision_timeout_s("hermes") == 5
    settings.MOLECULE_DEFAULT_RUNTIME = "house-made"
    assert {"house-made", "external", "gemini-cli"} <= defaults.known_runtimes()
