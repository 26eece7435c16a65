"""Workspaces on instances from create to delete: real workers, a real broker, an emulated account."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from provisioning import dispatch, services
from provisioning.backends.base import ComputeState
from provisioning.backends.ec2 import Ec2Backend
from provisioning.ledger import recorded_compute
from provisioning.models import ProvisionRun, RunState
from provisioning.services import sweeps
from tests.clients import admin
from tests.provisioning.conftest import queued, run_of, status_of
from tests.provisioning.ec2_cloud import REGION, Cloud
from tests.provisioning.fleet import Fleet, light_fleet, whole_fleet
from tests.provisioning.harness import eventually
from tests.provisioning.test_workers import Workers
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(420)]


class CloudWorkers(Workers):
    """Worker processes of a deployment whose workspaces are instances."""

    def __init__(
        self, folder: Path, platform_url: str, monkeypatch: pytest.MonkeyPatch, cloud: Cloud
    ) -> None:
        super().__init__(folder, platform_url, monkeypatch)
        self.environment |= {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "PROVISIONER": "ec2",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "EC2_ENDPOINT_URL": cloud.url,
            "EC2_AMI_ID": cloud.ami,
            "EC2_SUBNET_IDS": ",".join(cloud.subnets[:2]),
            "EC2_SECURITY_GROUP_IDS": cloud.group,
        }

    def end(self) -> None:
        for worker in self.running:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


@pytest.fixture
def workers(
    tmp_path: Path,
    live_server: Any,
    ec2_settings: Any,
    cloud: Cloud,
    valkey: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[CloudWorkers]:
    made = CloudWorkers(tmp_path, live_server.url, monkeypatch, cloud)
    ec2_settings.INSTANCE_ID = made.instance_id
    ec2_settings.PLATFORM_URL = live_server.url
    dispatch.wire(Ec2Backend.from_settings(recorded=recorded_compute))
    yield made
    made.end()
    dispatch.choose_again()
    sys.stdout.write(made.logs())


@pytest.fixture
def fleets() -> Iterator[list[Fleet]]:
    made: list[Fleet] = []
    yield made
    for fleet in made:
        fleet.end()


def created(name: str = "Ada", **fields: Any) -> Workspace:
    answer = admin().post("/workspaces", {"name": name, **fields})
    assert answer.status_code == 201, answer.content
    return Workspace.objects.get(pk=answer.json()["id"])


def instances_of(cloud: Cloud, row: Workspace) -> list[Any]:
    return cloud.instances(workspace_id=str(row.pk))


def becomes(row: Workspace, status: Status, within_s: float = 90) -> None:
    eventually(lambda: status_of(row) == status, within_s)


def test_the_life_of_a_workspace(workers, cloud, fleets, tmp_path):
    """The real script fetches the start, and the reference agent it delivers comes online, each time anew."""
    workers.start()
    fleets.append(whole_fleet(cloud, tmp_path / "machines"))
    (tmp_path / "machines").mkdir()
    row = created()
    path = f"/workspaces/{row.pk}"

    def online(generation: int) -> str:
        becomes(row, Status.ONLINE)
        (instance,) = instances_of(cloud, row)
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["molecule:generation"] == str(generation)
        shown = Workspace.objects.get(pk=row.pk)
        assert shown.instance_id == instance["InstanceId"]
        assert (shown.url, shown.url_source) == (f"http://{instance['PrivateIpAddress']}:8000", "platform")
        eventually(lambda: run_of(row, generation).state == RunState.SUCCEEDED)
        return str(instance["InstanceId"])

    seen = [online(1)]
    assert admin().get(f"{path}/console").json()["instance_id"] == seen[0]
    assert admin().post(f"{path}/restart").status_code == 200
    seen.append(online(2))
    assert admin().post(f"{path}/pause").json() == {"status": "paused", "paused_count": 1}
    assert instances_of(cloud, row) == []
    assert Workspace.objects.get(pk=row.pk).instance_id is None
    assert admin().post(f"{path}/resume").status_code == 200
    seen.append(online(4))
    assert admin().post(f"{path}/hibernate", {}).status_code == 200
    assert (status_of(row), instances_of(cloud, row)) == (Status.HIBERNATED, [])
    assert admin().post(f"{path}/restart").status_code == 200
    seen.append(online(6))
    assert len(set(seen)) == 4
    assert admin().delete(f"{path}?confirm=true").status_code == 200
    assert status_of(row) == Status.REMOVED
    assert cloud.instances() == []
    assert fleets[0].failures == []


def test_a_worker_killed_between_the_machine_and_its_record_is_made_up_for(workers, cloud, fleets):
    lost = threading.Event()
    cloud.fail("RunInstances", is_late=True, until=lost)
    worker = workers.start()
    row = created()
    eventually(lambda: len(instances_of(cloud, row)) == 1, 60)
    run = run_of(row)
    assert (run.state, run.compute_id) == (RunState.RUNNING, None)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    lost.set()
    workers.start()
    fleets.append(light_fleet(cloud))
    becomes(row, Status.ONLINE, 120)
    eventually(lambda: run_of(row).state == RunState.SUCCEEDED, 90)
    (instance,) = instances_of(cloud, row)
    run = run_of(row)
    assert (run.attempts, run.compute_id) == (2, instance["InstanceId"])
    assert Workspace.objects.get(pk=row.pk).instance_id == instance["InstanceId"]
    assert len(cloud.called("RunInstances")) == 1
    assert fleets[0].failures == []


def test_fifty_at_once_with_a_worker_killed_in_the_middle(workers, cloud, fleets):
    """Each ends with exactly one machine; none is lost, none doubled."""
    fleets.append(light_fleet(cloud))
    victim = workers.start()
    workers.start()
    rows = [created(f"W{number}") for number in range(50)]
    eventually(lambda: len(cloud.called("RunInstances")) >= 12, 120)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()

    def are_online() -> bool:
        return Workspace.objects.filter(status=Status.ONLINE).count() == len(rows)

    eventually(are_online, 240)
    owners = Counter(
        tag["Value"]
        for instance in cloud.instances()
        for tag in instance["Tags"]
        if tag["Key"] == "molecule:workspace-id"
    )
    assert owners == {str(row.pk): 1 for row in rows}
    eventually(lambda: not ProvisionRun.objects.exclude(state=RunState.SUCCEEDED).exists(), 60)
    recorded = dict(Workspace.objects.values_list("pk", "instance_id"))
    assert {one["InstanceId"] for one in cloud.instances()} == set(recorded.values())
    assert fleets[0].failures == []


# --- Without workers: what the flows make of the account's refusals


@pytest.fixture
def wired(ec2_settings: Any, cloud: Cloud) -> Iterator[Ec2Backend]:
    backend = Ec2Backend.from_settings(recorded=recorded_compute)
    dispatch.wire(backend)
    yield backend
    dispatch.choose_again()


@pytest.fixture
def served(wired: Ec2Backend, doorbell: Any) -> Callable[..., Workspace]:
    """Makes a workspace that is online on its machine."""

    def make() -> Workspace:
        row = queued()
        doorbell.work()
        Workspace.objects.filter(pk=row.pk).update(status=Status.ONLINE)
        row.refresh_from_db()
        return row

    return make


def leaks(caplog: Any) -> list[str]:
    return [one.getMessage() for one in caplog.records if "LEAK-SUSPECT" in one.getMessage()]


def test_a_quota_fails_the_start_with_a_sentence_and_without_another_try(wired, cloud, doorbell):
    cloud.fail("RunInstances", "VcpuLimitExceeded", times=10)
    row = queued()
    doorbell.work()
    row.refresh_from_db()
    run = run_of(row)
    assert (row.status, run.state, run.error_class, run.attempts) == ("failed", "failed", "quota", 1)
    assert "machine quota in us-east-2" in row.last_sample_error
    assert "remove or hibernate" in row.last_sample_error
    assert "VcpuLimitExceeded" in run.error_detail
    assert len(cloud.called("RunInstances")) == 1


def test_capacity_is_asked_for_three_times_half_a_minute_apart(wired, cloud, doorbell):
    cloud.fail("RunInstances", "InsufficientInstanceCapacity", times=100)
    row = queued()
    waits = []
    for _ in range(3):
        doorbell.work()
        run = run_of(row)
        if run.state == RunState.QUEUED:
            assert run.due_at
            waits.append((run.due_at - timezone.now()).total_seconds())
        services.provision(run.pk)
        run = run_of(row)
    assert (run.state, run.attempts, run.error_class) == (RunState.FAILED, 3, "capacity")
    assert all(20 < wait <= 30 for wait in waits)


def test_a_stop_that_fails_twice_is_tried_a_third_time(served, cloud, doorbell, caplog):
    row = served()
    cloud.fail("TerminateInstances", "OperationNotPermitted", times=2)
    cloud.calls.clear()
    services.accept_restart(row.pk, {})
    began = time.monotonic()
    doorbell.work()
    assert time.monotonic() - began >= 3
    assert cloud.counts()["TerminateInstances"] == 3
    assert leaks(caplog) == []
    (instance,) = instances_of(cloud, row)
    assert {"Key": "molecule:generation", "Value": "2"} in instance["Tags"]


def test_a_stop_that_never_works_is_owed_and_the_restart_goes_on(served, cloud, doorbell, caplog):
    row = served()
    (old,) = instances_of(cloud, row)
    cloud.fail("TerminateInstances", "OperationNotPermitted", times=100)
    services.accept_restart(row.pk, {})
    doorbell.work()
    (line,) = leaks(caplog)
    assert str(row.pk) in line
    assert len(instances_of(cloud, row)) == 2
    row.refresh_from_db()
    assert row.lifecycle.stop_below_generation == 2
    assert run_of(row).state == RunState.STARTED
    cloud.faults.clear()
    assert sweeps.stop_parked(timezone.now()) == 1
    (left,) = instances_of(cloud, row)
    assert left["InstanceId"] != old["InstanceId"]
    row.lifecycle.refresh_from_db()
    assert row.lifecycle.stop_below_generation is None


def test_a_delete_whose_stop_fails_is_finished_later(served, cloud, doorbell):
    row = served()
    cloud.fail("TerminateInstances", "OperationNotPermitted", times=3)
    assert admin().delete(f"/workspaces/{row.pk}?confirm=true").status_code == 500
    assert len(instances_of(cloud, row)) == 1
    assert admin().delete(f"/workspaces/{row.pk}?confirm=true").status_code == 200
    assert cloud.instances() == []


def test_a_machine_that_was_ended_outside_is_noticed(served, cloud, doorbell):
    row = served()
    (instance,) = instances_of(cloud, row)
    cloud.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert dispatch.status(row.pk) == ComputeState.NOT_RUNNING
    sweeps.reconcile(timezone.now())
    assert status_of(row) in {Status.OFFLINE, Status.PROVISIONING}
    doorbell.work()
    (again,) = instances_of(cloud, row)
    assert again["InstanceId"] != instance["InstanceId"]
