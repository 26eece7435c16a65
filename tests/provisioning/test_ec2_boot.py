"""The boot script itself, run by bash from the user-data of an instance, against the real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from access.services import secret_environment
from provisioning import dispatch, services
from provisioning.backends.ec2 import Ec2Backend
from provisioning.ledger import recorded_compute
from provisioning.models import BootBundle
from tests.clients import admin
from tests.provisioning.conftest import Doorbell, queued, run_of
from tests.provisioning.ec2_cloud import Cloud
from tests.provisioning.machine import Machine
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

STRANGE = 'it\'s "quoted"\n$(rm -rf /) `id` \\ é\n'


@pytest.fixture
def machines(
    ec2_settings: Any, cloud: Cloud, live_server: Any, doorbell: Doorbell, tmp_path: Path
) -> Iterator[Callable[..., Machine]]:
    """Makes the machine of a workspace that was just started."""
    ec2_settings.PLATFORM_URL = live_server.url
    ec2_settings.MOLECULE_IMAGE_REGISTRY = "registry.example/house"
    dispatch.wire(Ec2Backend.from_settings(recorded=recorded_compute))
    made: list[Machine] = []

    def of(row: Workspace, **environment: str) -> Machine:
        doorbell.work()
        (instance,) = cloud.instances(workspace_id=str(row.pk))
        made.append(Machine(cloud, instance["InstanceId"], tmp_path, **environment))
        return made[-1]

    yield of
    for one in made:
        one.end()
    dispatch.choose_again()


def phases(row: Workspace) -> list[tuple[str, str]]:
    steps = run_of(row).steps
    known = {"cloud_init", "docker_ready", "config_fetched", "image_pulled", "container_started", "crashed"}
    return [(step["name"], step["status"]) for step in steps if step["name"] in known]


WHOLE = [
    (name, "ok")
    for name in ("cloud_init", "docker_ready", "config_fetched", "image_pulled", "container_started")
]


def test_a_machine_becomes_its_workspace(machines):
    row = queued(tier=2, name="Ada")
    answer = admin().put(f"/workspaces/{row.pk}/secrets", {"key": "STRANGE", "value": STRANGE})
    assert answer.status_code == 200, answer.content
    machine = machines(row)
    row.refresh_from_db()
    done = machine.boot()
    assert done.returncode == 0, done.stdout + done.stderr
    assert phases(row) == WHOLE
    seen = machine.seen
    assert seen["environment"]["STRANGE"] == STRANGE == secret_environment(row.pk)["STRANGE"]
    address = seen["environment"]["HOSTNAME"]
    assert seen["environment"]["MOLECULE_WORKSPACE_URL"] == f"http://{address}:8000"
    assert seen["environment"]["WORKSPACE_ID"] == str(row.pk)
    assert set(seen["files"]) == {"config.yaml", ".auth_token", ".platform_inbound_secret"}
    assert STRANGE not in " ".join(seen["arguments"])
    assert machine.configs() == {
        "config.yaml": (1000, 0o644),
        ".auth_token": (1000, 0o600),
        ".platform_inbound_secret": (1000, 0o600),
    }
    assert machine.docker_calls("pull") == [
        ["pull", "--quiet", "registry.example/house/workspace-template-langgraph:latest"]
    ]
    left = {path.name for path in machine.root.iterdir()}
    assert (
        not {"start.json", "run.json", "registry-password"} & left
    )  # nothing secret stays beside the container
    assert machine.commands == []


@pytest.mark.parametrize("tier", [1, 2, 3, 4])
def test_the_container_gets_what_its_tier_means(machines, tier):
    row = queued(tier=tier, runtime="claude-code")
    machine = machines(row)
    assert machine.boot().returncode == 0
    words = machine.seen["arguments"]
    text = " ".join(words)
    for expected, tiers in {
        "--network host": {4},
        "--publish 8000:8000": {1, 2, 3},
        f"--hostname ws-{row.pk}": {1, 2, 3},
        "--privileged": {3, 4},
        "--pid host": {3, 4},
        "--read-only": {1},
        "--tmpfs /tmp:rw,noexec,nosuid,size=64m": {1},
        "--cap-drop ALL --cap-add CHOWN": {1, 2},
        "--security-opt no-new-privileges": {1, 2},
        "--pids-limit 512": {1, 2},
        "--pids-limit 2048": {3, 4},
        "--memory 512m --cpus 1.0": {1, 2},
        "--memory 2048m --cpus 2.0": {3},
        "--memory 4096m --cpus 4.0": {4},
        f"--volume {machine.root}/configs:/configs": {1, 2, 3, 4},
        f"--volume {machine.root}/workspace:/workspace": {2, 3, 4},
        f"--volume {machine.root}/sessions:/root/.claude/sessions": {2, 3, 4},
        "--volume /var/run/docker.sock:/var/run/docker.sock": {4},
        "--restart unless-stopped --init": {1, 2, 3, 4},
    }.items():
        assert (expected in text) is (tier in tiers), expected
    closed = [
        "iptables -I OUTPUT -d 169.254.169.254 -m owner ! --uid-owner 0 -j DROP",
        "ip6tables -I OUTPUT -d fd00:ec2::254 -m owner ! --uid-owner 0 -j DROP",
    ]
    assert machine.commands == (closed if tier == 4 else [])


def test_registry_credentials_reach_docker_by_its_standard_input(machines, ec2_settings):
    ec2_settings.GHCR_USER, ec2_settings.GHCR_TOKEN = "user", "the-password"
    row = queued()
    machine = machines(row)
    assert machine.boot().returncode == 0
    assert machine.docker_calls("login") == [
        ["login", "--username", "user", "--password-stdin", "registry.example"]
    ]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"DOCKER_STATE": "exited 1"}, "the container is exited"),
        ({"DOCKER_STATE": "running 3"}, "restarted 3 times"),
        ({"DOCKER_FAILS": "pull image"}, "could not be pulled"),
        ({"DOCKER_FAILS": "run"}, "failed"),
    ],
)
def test_a_failure_is_printed_and_fails_the_start_at_once(machines, environment, told):
    row = queued()
    machine = machines(row, **environment)
    done = machine.boot()
    assert done.returncode == 1
    assert "RUNTIME CRASHED" in done.stdout
    row.refresh_from_db()
    assert row.status == Status.FAILED
    assert told in row.last_sample_error
    assert phases(row)[-1] == ("crashed", "failed")


def test_an_image_that_cannot_be_pulled_is_taken_from_the_machine(machines):
    row = queued()
    machine = machines(row, DOCKER_FAILS="pull")
    assert machine.boot().returncode == 0
    assert "the machine's own copy is used" in (machine.root / "boot.log").read_text()


def test_without_a_registry_no_strangers_image_is_pulled(machines, ec2_settings):
    ec2_settings.MOLECULE_IMAGE_REGISTRY = ""
    dispatch.wire(Ec2Backend.from_settings(recorded=recorded_compute))
    row = queued()
    machine = machines(row)
    assert machine.boot().returncode == 0
    assert machine.docker_calls("pull") == []
    assert machine.seen["arguments"][-1] == "workspace-template-langgraph:latest"


def test_a_superseded_machine_ends_itself(machines, doorbell):
    row = queued()
    machine = machines(row)
    services.accept_restart(row.pk, {})
    done = machine.boot()
    assert done.returncode == 0
    assert machine.commands == ["shutdown -h now"]
    assert not (machine.root / "seen.json").exists()


def test_a_token_that_has_had_its_time_ends_the_boot(machines):
    row = queued()
    machine = machines(row)
    BootBundle.objects.all().delete()
    done = machine.boot()
    assert done.returncode == 1
    assert "RUNTIME CRASHED" in done.stdout
    assert "does not accept the boot token" in done.stdout


def test_a_server_that_is_away_for_a_while_is_waited_for(machines, monkeypatch):
    from provisioning.views import BootView

    real, failures = BootView.config, [1, 1, 1]

    def config(self: Any, *arguments: Any, **named: Any) -> Any:
        if failures:
            failures.pop()
            raise RuntimeError("not now")
        return real(self, *arguments, **named)

    monkeypatch.setattr(BootView, "config", config)
    row = queued()
    machine = machines(row)
    done = machine.boot()
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the server answered 500") == 3


def test_the_boot_token_is_on_no_command_line(machines):
    row = queued()
    machine = machines(row)
    token = json.loads(json.dumps(machine.user_data)).split("BOOT_TOKEN=")[1].split("\n")[0]
    machine.boot()
    assert token not in (machine.root / "docker.log").read_text()
    assert token not in (machine.root / "boot.log").read_text()
