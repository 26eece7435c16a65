"""A backend in memory, and a doorbell that tests answer themselves: they decide when a worker works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from a2a.system_messages import tell
from config import jobs
from config.jobs import Job
from provisioning import dispatch, services
from provisioning.backends.base import StartSpec
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ProvisionRun
from tests.clients import Api
from tests.conftest import at_once
from tests.provisioning.ec2_cloud import REGION, Cloud, moto_server
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace


@pytest.fixture
def backend() -> Iterator[InMemoryBackend]:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    yield memory
    dispatch.choose_again()


@pytest.fixture
def no_backend() -> Iterator[None]:
    dispatch.wire(None)
    yield
    dispatch.choose_again()


@pytest.fixture(scope="session")
def cloud_account() -> Iterator[Cloud]:
    with moto_server() as port:
        account = Cloud(port)
        yield account
        account.close()


@pytest.fixture
def cloud(cloud_account: Cloud) -> Iterator[Cloud]:
    """An empty account of a cloud provider, reached through a proxy that sees and disturbs every call."""
    cloud_account.forget()
    yield cloud_account
    cloud_account.forget()


@pytest.fixture
def ec2_settings(settings: Any, cloud: Cloud) -> Any:
    """This deployment is a tenant's, with everything that instances need."""
    settings.PROVISIONER, settings.MOLECULE_ORG_ID = "auto", ""
    settings.INSTANCE_ID = f"test-{uuid4().hex[:12]}"
    settings.AWS_REGION, settings.EC2_ENDPOINT_URL = REGION, cloud.url
    settings.AWS_ACCESS_KEY_ID = settings.AWS_SECRET_ACCESS_KEY = "test"
    settings.EC2_AMI_ID = cloud.ami
    settings.EC2_SUBNET_IDS, settings.EC2_SECURITY_GROUP_IDS = cloud.subnets[:2], [cloud.group]
    return settings


class Doorbell:
    """What was rung for, in order. `work()` is a worker that answers until nothing rings."""

    def __init__(self) -> None:
        self.rung: list[tuple[Job, dict[str, Any]]] = []

    def ring(self, job: Job, ids: dict[str, Any]) -> None:
        self.rung.append((job, ids))

    def work(self) -> None:
        while self.rung:
            job, ids = self.rung.pop(0)
            match job:
                case Job.PROVISION | Job.PROVISION_IMPORTED:
                    services.provision(UUID(str(ids["run_id"])))
                case Job.RESTART_CYCLE:
                    services.restart_cycle(UUID(str(ids["workspace_id"])))
                case Job.DELIVER_RESTART_CONTEXT:
                    services.deliver_context(UUID(str(ids["workspace_id"])), tell)
                case Job.TEARDOWN:
                    services.teardown_run(UUID(str(ids["run_id"])))


@pytest.fixture
def doorbell(monkeypatch: pytest.MonkeyPatch, valkey: Any) -> Doorbell:
    bell = Doorbell()
    monkeypatch.setattr(jobs, "_send", bell.ring)
    return bell


def queued(**fields: Any) -> Workspace:
    """A managed workspace whose first start is queued."""
    row = WorkspaceFactory(status=Status.PROVISIONING, **fields)
    dispatch.provision_async(row)
    return row


def register(spec: StartSpec) -> Any:
    """What the agent of a start does first, with the token it was given."""
    token = spec.files[".auth_token"].content.decode()
    body = {"id": str(spec.workspace_id), "url": "http://localhost:9", "agent_card": {"name": spec.name}}
    return Api(token).post("/registry/register", body)


def heartbeat(spec: StartSpec) -> Any:
    token = spec.files[".auth_token"].content.decode()
    body = {"workspace_id": str(spec.workspace_id), "error_rate": 0, "active_tasks": 0, "uptime_seconds": 1}
    return Api(token).post("/registry/heartbeat", body)


def running(backend: InMemoryBackend, doorbell: Doorbell, **fields: Any) -> Workspace:
    """A managed workspace that is online, with compute behind it."""
    row = queued(**fields)
    doorbell.work()
    assert register(backend.specs[-1]).status_code == 200
    row.refresh_from_db()
    assert row.status == Status.ONLINE
    return row


def run_of(row: Workspace, generation: int | None = None) -> ProvisionRun:
    generation = row.generation if generation is None else generation
    return ProvisionRun.objects.starts().get(workspace_id=row.pk, generation=generation)


def status_of(row: Workspace) -> str:
    return str(Workspace.objects.values_list("status", flat=True).get(pk=row.pk))


@contextmanager
def slow_start(backend: Any, row: Workspace) -> Iterator[None]:
    """Hold the start of `row`'s first run in a worker thread while the body runs, then let it end."""
    entered, go_on = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        entered.set()
        go_on.wait(10)

    backend.before["start"] = hold
    worker = threading.Thread(target=lambda: at_once(lambda: services.provision(run_of(row, 1).pk)))
    worker.start()
    try:
        assert entered.wait(10)
        yield
    finally:
        go_on.set()
        worker.join(20)
