"""What a machine fetches with its boot token: by whom, how long, how often; and what it tells meanwhile."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from access import windows
from provisioning import services
from provisioning.backends.base import BackendError, ErrorClass, File, StartSpec
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import BootBundle
from provisioning.progress import PHASES
from provisioning.services import sweeps
from provisioning.services.boot_bundles import TTL, boot_token
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.provisioning.conftest import heartbeat, queued, register, run_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)

CONFIG, EVENTS = "/internal/workspaces/boot-config", "/internal/workspaces/boot-events"
KEY = "k" * 32


@pytest.fixture
def machines(backend: InMemoryBackend, doorbell: Any, settings: Any) -> InMemoryBackend:
    """A backend whose computes fetch their start."""
    settings.SECRETS_ENCRYPTION_KEY = KEY
    backend.capabilities = backend.capabilities | {"boot_bundle"}
    return backend


@pytest.fixture
def booting(machines: InMemoryBackend, doorbell: Any) -> StartSpec:
    """The start of a workspace whose machine boots."""
    queued()
    doorbell.work()
    return machines.specs[-1]


def fetch(spec: StartSpec, **headers: str) -> Any:
    return Api(spec.boot_token, **headers).get(CONFIG)


def tell(spec: StartSpec, phase: Any, message: Any = "") -> Any:
    return Api(spec.boot_token).post(EVENTS, {"phase": phase, "message": message})


def row_of(spec: StartSpec) -> Workspace:
    return Workspace.objects.get(pk=spec.workspace_id)


def test_a_machine_fetches_its_start(booting, caplog):
    answer = fetch(booting)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    content = answer.json()
    assert (content["workspace_id"], content["generation"]) == (str(booting.workspace_id), 1)
    assert content["image"] == "memory/langgraph"
    assert content["registry_auth"] is None
    assert content["env"] == dict(booting.environment)
    assert set(content["files"]) == {"config.yaml", ".auth_token", ".platform_inbound_secret"}
    token = content["files"][".auth_token"]
    assert (base64.b64decode(token["content_b64"]), token["mode"]) == (
        booting.files[".auth_token"].content,
        0o600,
    )
    assert set(content) == {
        "workspace_id", "generation", "image", "registry_auth", "env", "files", "container",
    }  # fmt: skip
    assert "boot_bundle.fetched" in caplog.text


def test_the_bundle_is_sealed_and_its_bearer_is_not_stored(booting):
    stored = BootBundle.objects.get()
    assert booting.boot_token is not None
    assert stored.sealed.startswith("v1:")
    secret = booting.files[".auth_token"].content.decode()
    assert booting.boot_token not in stored.sealed
    assert secret not in stored.sealed
    assert booting.boot_token.encode() not in bytes(stored.token_hash)
    assert len(booting.boot_token) == 43  # 256 bits


def test_registry_credentials_go_along_only_with_a_registry(machines, doorbell, settings):
    settings.MOLECULE_IMAGE_REGISTRY = "ghcr.io/house"
    settings.GHCR_USER, settings.GHCR_TOKEN = "user", "password"
    queued()
    doorbell.work()
    assert fetch(machines.specs[-1]).json()["registry_auth"] == {
        "server": "ghcr.io",
        "username": "user",
        "password": "password",
    }


@pytest.mark.parametrize(
    ("tier", "network", "privileged", "read_only", "memory_mb", "pids", "mounts"),
    [
        (1, "bridge", False, True, 512, 512, {"/configs"}),
        (2, "bridge", False, False, 512, 512, {"/configs", "/workspace"}),
        (3, "bridge", True, False, 2048, 2048, {"/configs", "/workspace"}),
        (4, "host", True, False, 4096, 2048, {"/configs", "/workspace", "/var/run/docker.sock"}),
        (0, "bridge", False, False, 512, 512, {"/configs", "/workspace"}),
    ],
)
def test_on_its_own_machine_a_tier_means_what_it_says(
    booting, tier, network, privileged, read_only, memory_mb, pids, mounts
):
    from provisioning.containers import container_settings

    limits = container_settings(tier, "langgraph")
    assert (limits["network"], limits["privileged"], limits["read_only"]) == (network, privileged, read_only)
    assert (limits["memory_mb"], limits["pids_limit"], set(limits["mounts"].values())) == (
        memory_mb, pids, mounts,
    )  # fmt: skip
    assert limits["no_new_privileges"] is (not privileged)
    assert limits["cap_drop"] == ([] if privileged else ["ALL"])
    assert set(limits["tmpfs"]) == ({"/tmp", "/home/agent", "/run"} if tier == 1 else set())
    sessions = "/root/.claude/sessions"
    assert (sessions in container_settings(tier, "claude-code")["mounts"].values()) is (tier != 1)


def test_nobody_else_fetches_it(booting):
    for caller in (anonymous(), admin(), Api("junk"), agent_of(booting.workspace_id, generation=1)):
        for answer in (caller.get(CONFIG), caller.post(EVENTS, {"phase": "cloud_init"})):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert Api(f"{booting.boot_token}, Bearer other").get(CONFIG).status_code == 401


def test_a_boot_token_opens_nothing_else(booting):
    machine = Api(booting.boot_token)
    assert machine.get("/workspaces").status_code == 401
    assert machine.get(f"/workspaces/{booting.workspace_id}/provision-runs").status_code == 401
    body = {"id": str(booting.workspace_id), "url": "http://localhost:9", "agent_card": {"name": "x"}}
    assert machine.post("/registry/register", body).status_code == 401


def test_it_is_fetched_as_often_as_needed_until_the_agent_calls(booting):
    assert [fetch(booting).status_code for _ in range(3)] == [200] * 3
    assert register(booting).status_code == 200
    assert fetch(booting).status_code == 401
    assert tell(booting, "container_started").status_code == 401
    assert BootBundle.objects.get().sealed == ""


def test_a_heartbeat_consumes_it_too(booting):
    assert heartbeat(booting).status_code == 200
    assert fetch(booting).status_code == 401


def test_it_expires(booting):
    BootBundle.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert fetch(booting).status_code == 401
    assert sweeps.clean_up(timezone.now()) == 1
    assert not BootBundle.objects.exists()


def test_it_is_valid_for_half_an_hour(booting):
    left = BootBundle.objects.get().expires_at - timezone.now()
    assert timedelta(minutes=28) < left <= TTL


@pytest.mark.parametrize("status", [Status.PAUSED, Status.HIBERNATED, Status.REMOVED])
def test_a_machine_whose_workspace_moved_on_is_told_so(booting, status):
    Workspace.objects.filter(pk=booting.workspace_id).update(status=status, generation=2)
    answer = fetch(booting)
    assert (answer.status_code, answer.json()) == (409, {"error": "superseded by a newer start"})
    assert tell(booting, "cloud_init").status_code == 409


def test_a_restart_supersedes_the_machine_that_still_boots(booting, machines, doorbell):
    assert admin().post(f"/workspaces/{booting.workspace_id}/restart").status_code == 200
    assert fetch(booting).status_code == 409
    doorbell.work()
    newer = machines.specs[-1]
    assert newer.boot_token != booting.boot_token
    assert (fetch(booting).status_code, fetch(newer).status_code) == (409, 200)


def test_a_key_that_is_gone_opens_nothing_and_the_next_try_makes_another(booting, settings):
    settings.SECRETS_ENCRYPTION_KEY = "x" * 32
    assert fetch(booting).status_code == 401
    again = replace(booting, boot_token=boot_token(booting))
    assert again.boot_token != booting.boot_token
    assert fetch(again).status_code == 200


def test_a_start_that_is_tried_again_shows_the_same_token(machines, doorbell):
    passing = BackendError(ErrorClass.TRANSIENT, "not now", retryable=True)
    machines.failures["start"].append(passing)
    tokens = []
    real = machines.start

    def start(spec: StartSpec) -> Any:
        tokens.append(spec.boot_token)
        return real(spec)

    machines.start = start
    row = queued()
    doorbell.work()
    BootBundle.objects.update(expires_at=Now() + timedelta(minutes=1))
    services.provision(run_of(row).pk)
    assert len(tokens) == 2
    assert tokens[0] == tokens[1]
    assert BootBundle.objects.get().expires_at > timezone.now() + timedelta(minutes=28)
    files = machines.specs[-1].files
    served = fetch(machines.specs[-1]).json()["files"][".auth_token"]["content_b64"]
    assert base64.b64decode(served) != files[".auth_token"].content  # as it was rendered the first time
    token = base64.b64decode(served)
    first = replace(machines.specs[-1], files={**files, ".auth_token": File(token)})
    assert register(first).status_code == 200  # and it still opens the door


def test_a_start_that_is_tried_after_its_agent_called_stores_nothing(booting):
    register(booting)
    assert boot_token(booting) != booting.boot_token
    assert BootBundle.objects.get().sealed == ""


def test_of_racing_tries_all_show_one_token(booting):
    spec = replace(booting, workspace_id=WorkspaceFactory().pk)
    tokens = at_once(*[lambda: boot_token(spec)] * 4)
    opened = [token for token in tokens if Api(token).get(CONFIG).status_code == 200]
    assert len(set(opened)) == 1


def test_ten_calls_a_minute_are_enough(booting):
    assert [fetch(booting).status_code for _ in range(11)] == [200] * 10 + [429]
    assert tell(booting, "cloud_init").status_code == 200  # its own window
    windows.forget_everything()
    assert fetch(booting).status_code == 429  # counted by all processes together


def test_a_tenants_machine_says_whose_it_is(booting, settings):
    settings.MOLECULE_ORG_ID = "org-1"
    assert fetch(booting).status_code == 400
    assert fetch(booting, HTTP_X_MOLECULE_ORG_ID="another").status_code == 404
    assert fetch(booting, HTTP_X_MOLECULE_ORG_ID="org-1").status_code == 200


def test_the_phases_of_a_boot_are_steps_of_its_run(booting, published):
    published.clear()
    for phase in PHASES[:-1]:
        assert tell(booting, phase, f"{phase} done").json() == {"ok": True}
    told = [(frame.payload["step"], frame.payload["status"], frame.payload["message"]) for frame in published]
    assert told == [("boot", "running", phase) for phase in PHASES[:-1]]
    register(booting)
    steps = {step["name"]: step for step in run_of(row_of(booting)).steps}
    assert list(steps) == ["queued", "prepare", "image", "create", *PHASES[:-1], "boot", "register"]
    assert all(step["status"] == "ok" for step in steps.values())
    assert steps["image_pulled"]["message"] == "image_pulled done"
    shown = agent_of(booting.workspace_id).get(f"/workspaces/{booting.workspace_id}/provision-runs").json()
    assert [step["name"] for step in shown[0]["steps"]] == list(steps)


def test_a_crash_fails_the_start_at_once(booting, published):
    assert (
        tell(booting, "crashed", "after image_pulled: exit 1\nAUTH_TOKEN=abcdefghijklmnop").status_code == 200
    )
    row = row_of(booting)
    assert row.status == Status.FAILED
    assert "exit 1" in row.last_sample_error
    assert "abcdefghijklmnop" not in row.last_sample_error
    run = run_of(row)
    assert (run.state, run.error_class) == ("failed", "boot_failed")
    assert [frame.event for frame in published if "FAILED" in frame.event] == ["WORKSPACE_PROVISION_FAILED"]
    assert register(booting).status_code == 200  # it came after all
    assert row_of(booting).status == Status.ONLINE


@pytest.mark.parametrize(
    "body", [{}, {"phase": "other"}, {"phase": None}, {"phase": 1}, {"phase": ["crashed"]}]
)
def test_an_unknown_phase_is_refused(booting, body):
    answer = Api(booting.boot_token).post(EVENTS, body)
    assert answer.status_code == 400
    assert "phase must be one of" in answer.json()["error"]


def test_a_long_message_is_cut_and_an_odd_one_stored(booting):
    tell(booting, "cloud_init", "\x00" + "é" * 2000)
    (told,) = [step for step in run_of(row_of(booting)).steps if step["name"] == "cloud_init"]
    assert len(told["message"]) == 500
    assert tell(booting, "cloud_init", 5).status_code == 400
    assert tell(booting, "cloud_init", None).status_code == 200


def test_the_machine_and_its_worker_do_not_undo_each_others_steps(machines, doorbell):
    """The machine tells its phases while the worker still holds the run, and both keep theirs."""
    told: list[Any] = []
    real = machines.start

    def start(spec: StartSpec) -> Any:
        answer = real(spec)
        told.append(at_once(lambda: tell(spec, "cloud_init")))
        return answer

    machines.start = start
    row = queued()
    doorbell.work()
    assert told[0][0].status_code == 200
    steps = [(step["name"], step["status"]) for step in run_of(row).steps]
    assert steps[-3:] == [("create", "ok"), ("cloud_init", "ok"), ("boot", "running")]


def test_the_backend_learns_that_the_boot_is_over(booting, machines):
    finished: list[Any] = []
    failures = [BackendError(ErrorClass.TRANSIENT, "not now")]

    def finish(workspace_id: Any) -> None:
        finished.append(workspace_id)
        if failures:
            raise failures.pop()

    machines.finish_boot = finish
    sweeps.clean_up(timezone.now())
    assert finished == []
    register(booting)
    sweeps.clean_up(timezone.now())
    assert BootBundle.objects.count() == 1  # not told yet: the next pass does
    sweeps.clean_up(timezone.now())
    sweeps.clean_up(timezone.now())
    assert finished == [booting.workspace_id] * 2
    assert not BootBundle.objects.exists()


def test_a_backend_that_hands_over_its_starts_needs_no_bundle(backend, doorbell):
    queued()
    doorbell.work()
    assert backend.specs[-1].boot_token is None
    assert not BootBundle.objects.exists()


def test_an_unknown_workspaces_token_is_nobodys():
    assert Api(uuid4().hex).get(CONFIG).status_code == 401
