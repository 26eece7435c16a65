"""Machines at a provider against the rows: orphans, duplicates, machines lost and found, the breaker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from config.jobs import Job
from config.locks import try_lock
from provisioning import dispatch, services
from provisioning.backends.base import ComputeState
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ComputeScan, RunState
from provisioning.services import sweeps
from provisioning.services.sweeps import reaping
from tests.provisioning.conftest import register, running, status_of
from tests.provisioning.machines import MACHINES, OLD, YOUNG, compute, ran, wired
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Status, Workspace

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def cloud() -> Iterator[InMemoryBackend]:
    yield wired("cp", MACHINES)
    dispatch.choose_again()


def now() -> datetime:
    return timezone.now()


def sample(name: str) -> dict[str, float]:
    """The series of one family, by their labels."""
    lines = Client().get("/metrics").content.decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith(name)]
    return {series.removeprefix(name): float(value) for series, value in pairs}


def fleet(cloud: InMemoryBackend, number: int) -> list[Workspace]:
    rows = [WorkspaceFactory(instance_id=f"i-{one}") for one in range(number)]
    for row in rows:
        ran(row, 1)
        cloud.place(compute(row.pk))
    return rows


# --- orphans


@pytest.mark.parametrize(("age", "left"), [(OLD, 0), (YOUNG, 1)], ids=["11 min", "9 min"])
def test_a_machine_without_a_row_is_stopped_once_it_is_old_enough(cloud, age, left):
    stray = compute(age=age)
    cloud.place(stray)
    assert sweeps.sweep_machines(now()) == 1 - left
    assert len(cloud.running(stray.workspace_id)) == left
    assert cloud.called("remove_storage") == []  # a provider's volumes go with a delete only


def test_the_machine_of_a_removed_row_is_given_to_its_teardown(cloud):
    row = WorkspaceFactory(status=Status.REMOVED)
    cloud.place(compute(row.pk, age=timedelta(0)))
    assert [sweeps.sweep_machines(now()), sweeps.sweep_machines(now())] == [1, 0]
    row.refresh_from_db()
    assert row.cleanup_pending


@pytest.mark.parametrize("status", [one for one in Status if one != Status.REMOVED])
def test_the_machine_of_a_living_row_is_left_alone(cloud, status):
    row = WorkspaceFactory(status=status, last_sample_error="x")
    ran(row, 1)
    cloud.place(compute(row.pk))
    assert sweeps.sweep_machines(now()) == 0
    assert cloud.called("stop") == []


def test_what_runs_under_an_external_row_is_nobody_elses_business(cloud):
    row = WorkspaceFactory(runtime=EXTERNAL)
    ran(row, 9)
    cloud.place(compute(row.pk))
    assert sweeps.sweep_machines(now()) == 0


def test_a_list_that_cannot_be_had_stops_nothing_and_is_no_scan(cloud):
    cloud.place(compute())
    cloud.unreachable = True
    with pytest.raises(ConnectionError):
        sweeps.sweep_machines(now())
    assert not ComputeScan.objects.exists()
    assert cloud.called("stop") == []


def test_a_machine_somebody_works_on_is_left_to_them(cloud):
    stray = compute()
    cloud.place(stray)
    with try_lock(f"ws-lifecycle:{stray.workspace_id}"):
        assert sweeps.sweep_machines(now()) == 0
    assert sweeps.sweep_machines(now()) == 1


def test_a_row_that_came_between_the_scan_and_the_stop_keeps_its_machine(cloud):
    stray = compute()
    cloud.place(stray)
    findings = sweeps.compare_compute(now())
    WorkspaceFactory(pk=stray.workspace_id)
    assert sweeps.reap(Job.EC2_ORPHAN_SWEEPER, findings) == 0
    assert cloud.running(stray.workspace_id) == [1]


def test_one_machine_that_cannot_be_stopped_does_not_keep_the_others(cloud):
    strays = [compute() for _ in range(3)]
    for one in strays:
        cloud.place(one)
    bad = strays[1].workspace_id
    cloud.before["stop"] = lambda pk: 1 / 0 if pk == bad else None
    assert sweeps.sweep_machines(now()) == 2


# --- duplicates


def test_a_second_machine_is_counted_stopped_when_old_and_its_series_goes(cloud, valkey):
    row = WorkspaceFactory(generation=2)
    ran(row, 1)
    ran(row, 2)
    cloud.place(compute(row.pk, 1, age=YOUNG))
    cloud.place(compute(row.pk, 2))
    assert sweeps.sweep_machines(now()) == 0
    series = f'{{workspace_id="{row.pk}"}}'
    assert sample("molecule_ec2_instance_duplicates") == {series: 1}
    assert sample("molecule_ec2_duplicate_instances") == {"": 1}
    assert (
        sweeps.sweep_machines(now() + timedelta(minutes=2)) == 0
    )  # judged again under the lock, by the clock
    cloud.change(row.pk, started_at=now() - OLD)
    assert sweeps.sweep_machines(now()) == 1
    assert cloud.running(row.pk) == [2]
    assert sweeps.sweep_machines(now()) == 0
    assert sample("molecule_ec2_instance_duplicates") == {}
    assert sample("molecule_ec2_duplicate_instances") == {"": 0}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.SUPERSEDED, RunState.QUEUED, RunState.CANCELLED])
def test_a_newer_run_that_never_started_condemns_nothing(cloud, state):
    row = WorkspaceFactory(generation=2)
    ran(row, 1)
    ran(row, 2, state)
    cloud.place(compute(row.pk, 1))
    assert sweeps.sweep_machines(now()) == 0
    assert cloud.running(row.pk) == [1]


def test_of_two_machines_of_one_generation_the_one_that_the_row_points_to_stays(cloud):
    row = WorkspaceFactory(generation=2, instance_id="i-mine")
    ran(row, 2)
    cloud.place(compute(row.pk, 2, age=2 * OLD, compute_id="i-other"))
    cloud.place(compute(row.pk, 2, compute_id="i-mine"))
    assert [sweeps.sweep_machines(now()), sweeps.sweep_machines(now())] == [1, 0]
    assert [one.compute_id for one in cloud.list_managed()] == ["i-mine"]


@pytest.mark.parametrize(("age", "left"), [(OLD, ["i-1"]), (YOUNG, ["i-1", "i-2"])])
def test_of_two_machines_that_no_row_names_the_older_stays(cloud, age, left):
    row = WorkspaceFactory()
    cloud.place(compute(row.pk, age=2 * OLD, compute_id="i-1"))
    cloud.place(compute(row.pk, age=age, compute_id="i-2"))
    sweeps.sweep_machines(now())
    assert [one.compute_id for one in cloud.list_managed()] == left


def test_a_second_machine_that_has_become_the_only_one_stays(cloud):
    row = WorkspaceFactory(instance_id="i-1")
    first = compute(row.pk, compute_id="i-1")
    cloud.place(first)
    cloud.place(compute(row.pk, compute_id="i-2"))
    findings = sweeps.compare_compute(now())
    cloud.stop_compute(row.pk, "i-1")
    assert sweeps.reap(Job.EC2_ORPHAN_SWEEPER, findings) == 0
    assert cloud.running(row.pk) == [1]


# --- the breaker


def test_too_many_at_once_are_left_until_an_operator_says_so(cloud, valkey):
    fleet(cloud, 14)
    for _ in range(6):  # 30 %
        cloud.place(compute())
    assert sweeps.sweep_machines(now()) == 0
    assert cloud.called("stop") == []
    assert sample("molecule_compute_reap_refused") == {"": 6}
    assert sample("molecule_ec2_orphan_instances") == {"": 6}
    findings = sweeps.compare_compute(now())
    assert sweeps.reap(Job.EC2_ORPHAN_SWEEPER, findings, is_ordered=True) == 6


def test_five_are_never_too_many_and_a_fifth_of_the_fleet_neither(cloud):
    for _ in range(5):
        cloud.place(compute())
    assert sweeps.sweep_machines(now()) == 5
    fleet(cloud, 24)
    for _ in range(6):
        cloud.place(compute())
    assert sweeps.sweep_machines(now()) == 6


def test_report_mode_only_reports(cloud, settings, valkey, monkeypatch):
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(reaping, "evt", lambda name, fields: lines.append((name, fields)))
    settings.COMPUTE_REAP_MODE = "report"
    stray = compute()
    cloud.place(stray)
    assert sweeps.sweep_machines(now()) == 0
    assert cloud.called("stop") == []
    ((name, fields),) = lines
    assert (name, fields["workspace_id"], fields["action"]) == (
        "sweep.action",
        str(stray.workspace_id),
        "reported",
    )
    assert sample("molecule_ec2_orphan_instances") == {"": 1}


# --- the reconciler


def test_a_machine_terminated_elsewhere_is_noticed_and_replaced(cloud, doorbell):
    row, parked = running(cloud, doorbell), running(cloud, doorbell)
    Workspace.objects.filter(pk=parked.pk).update(status=Status.PAUSED, generation=2)
    for one in (row, parked):
        cloud.kill(one.pk)
    assert sweeps.check_health(now()) == 0  # a provider is not asked every few seconds
    assert sweeps.reconcile(now()) == 1
    assert (status_of(row), status_of(parked)) == (Status.OFFLINE, Status.PAUSED)
    doorbell.work()
    assert (status_of(row), cloud.running(row.pk)) == (Status.PROVISIONING, [2])


def test_a_machine_that_only_the_list_lacks_is_asked_for_again(cloud, doorbell):
    row = running(cloud, doorbell)
    real = cloud.list_managed
    cloud.list_managed = lambda: [*real()][:0]
    assert sweeps.reconcile(now()) == 0
    assert status_of(row) == Status.ONLINE


def test_another_machine_recorded_meanwhile_saves_the_row(cloud, doorbell):
    row = running(cloud, doorbell)
    cloud.kill(row.pk)
    cloud.before["status"] = lambda pk: Workspace.objects.filter(pk=pk).update(instance_id="i-new")
    assert sweeps.reconcile(now()) == 0
    assert status_of(row) == Status.ONLINE


def test_a_machine_its_row_has_lost_is_adopted(cloud):
    row = WorkspaceFactory(generation=3)
    cloud.place(compute(row.pk, 3, compute_id="i-1", url="http://10.0.0.7:8000"))
    assert [sweeps.reconcile(now()), sweeps.reconcile(now())] == [1, 0]
    row.refresh_from_db()
    assert (row.instance_id, row.url, row.url_source) == ("i-1", "http://10.0.0.7:8000", "platform")


@pytest.mark.parametrize("facts", [{"generation": 4}, {"status": "paused"}, {"runtime": EXTERNAL}])
def test_a_machine_of_another_time_is_not_adopted(cloud, facts):
    row = WorkspaceFactory(**{"generation": 3, **facts})
    cloud.place(compute(row.pk, 3))
    assert sweeps.reconcile(now()) == 0
    row.refresh_from_db()
    assert row.instance_id is None


def test_a_removed_row_that_points_to_a_machine_is_torn_down(cloud, doorbell):
    row = WorkspaceFactory(status=Status.REMOVED, instance_id="i-1")
    cloud.place(compute(row.pk))
    assert [sweeps.reconcile(now()), sweeps.reconcile(now())] == [1, 0]
    services.teardown([row.pk])
    row.refresh_from_db()
    assert (row.instance_id, row.cleanup_pending, cloud.running(row.pk)) == (None, False, [])


def test_a_failing_part_of_the_reconciler_does_not_keep_the_others_and_is_on_record(cloud, monkeypatch):
    row = WorkspaceFactory(status=Status.REMOVED, instance_id="i-1")
    monkeypatch.setattr("provisioning.services.sweeps.reconciler._adopt_lost", lambda computes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweeps.reconcile(now())
    row.refresh_from_db()
    assert row.cleanup_pending


# --- boots


def booting(cloud: InMemoryBackend, doorbell: Any) -> Workspace:
    row = WorkspaceFactory(status=Status.PROVISIONING)
    dispatch.provision_async(row)
    doorbell.work()
    return row


def test_a_crash_on_the_console_fails_the_start_with_what_was_printed(cloud, doorbell):
    row, fine, silent = (booting(cloud, doorbell) for _ in range(3))
    cloud.consoles = {row.pk: "boot\nRUNTIME CRASHED\nKey sk-abcdefghijklmnop\n", fine.pk: "booting"}
    assert sweeps.watch_boots(now()) == 1
    row.refresh_from_db()
    assert (row.status, status_of(fine), status_of(silent)) == ("failed", "provisioning", "provisioning")
    assert "RUNTIME CRASHED" in (row.last_sample_error or "")
    assert "sk-abcdefghijklmnop" not in (row.last_sample_error or "")
    register(cloud.specs[0])
    assert status_of(row) == Status.ONLINE  # it came after all


def test_the_console_of_an_older_start_condemns_no_newer_one(cloud, doorbell):
    row = booting(cloud, doorbell)
    cloud.consoles[row.pk] = "RUNTIME CRASHED"
    cloud.before["console"] = lambda pk: Workspace.objects.filter(pk=pk).update(generation=2)
    assert sweeps.watch_boots(now()) == 0
    assert status_of(row) == Status.PROVISIONING


# --- gauges


def test_a_broken_scan_never_reads_as_nothing_found(cloud, valkey):
    names = [
        "molecule_ec2_instance_duplicates",
        "molecule_ec2_duplicate_instances",
        "molecule_ec2_orphan_instances",
        "molecule_compute_scan_last_success_timestamp_seconds",
    ]
    assert [sample(name) for name in names] == [{}, {}, {}, {}]
    text = Client().get("/metrics").content.decode()
    for name in names:
        assert f"# TYPE {name} gauge" in text
    sweeps.sweep_machines(now())
    before = sample(names[3])[""]
    cloud.unreachable = True
    with pytest.raises(ConnectionError):
        sweeps.sweep_machines(now())
    assert sample(names[3])[""] == before
    assert sample(names[2]) == {"": 0}


def test_a_stopped_machine_that_is_still_listed_is_no_duplicate_and_no_sign_of_life(cloud):
    row = WorkspaceFactory(generation=2, instance_id="i-2")
    ran(row, 2)
    cloud.place(compute(row.pk, 2, state=ComputeState.NOT_RUNNING))
    sweeps.sweep_machines(now())
    assert ComputeScan.objects.get().findings["duplicates"] == {}
    assert sweeps.reconcile(now()) == 1
    assert status_of(row) == Status.OFFLINE


@pytest.mark.parametrize("sweep", [sweeps.sweep_machines, sweeps.reconcile, sweeps.watch_boots])
def test_an_idle_sweep_makes_three_statements_at_most(cloud, django_assert_max_num_queries, sweep):
    fleet(cloud, 3)
    WorkspaceFactory(status=Status.REMOVED)
    sweep(now())  # the first scan makes its row
    with django_assert_max_num_queries(3):
        assert sweep(now()) == 0
