"""Images that move in a registry, asked over HTTP; and starts of images that no registry has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from config.jobs import Job
from provisioning import dispatch, registry
from provisioning.backends.base import BackendError
from provisioning.backends.ec2 import Ec2Backend
from provisioning.backends.memory import InMemoryBackend
from provisioning.models import ImageWatchState, RuntimeImagePin, WorkspaceLifecycle
from provisioning.services import sweeps
from provisioning.services.sweeps import watched_images
from tests.provisioning.conftest import running
from tests.provisioning.image_registry import Registry, running_registry
from tests.provisioning.machines import CONTAINERS, wired
from tests.provisioning.test_ec2 import spec

pytestmark = pytest.mark.django_db(transaction=True)
RUNTIMES = frozenset({"langgraph", "codex", "external"})


@pytest.fixture
def images(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    settings.IMAGE_AUTO_REFRESH = True
    monkeypatch.setattr(watched_images, "known_runtimes", lambda: RUNTIMES)
    with running_registry() as found:
        settings.MOLECULE_IMAGE_REGISTRY = f"{found.host}/org"
        for runtime in ("langgraph", "codex"):
            found.put(runtime, "a")
        yield found


@pytest.fixture
def engine() -> Iterator[InMemoryBackend]:
    yield wired("docker", CONTAINERS)
    dispatch.choose_again()


def tick(doorbell: Any) -> list[str]:
    """One pass, and the work it rang for; returns the runtimes that were taken up."""
    sweeps.watch_images(timezone.now())
    rung = [ids for job, ids in doorbell.rung if job == Job.IMAGE_REFRESH]
    doorbell.rung.clear()
    return [ids["runtime"] for ids in rung if sweeps.take_up_image(**ids)]


def remembered() -> dict[str, str | None]:
    return dict(ImageWatchState.objects.values_list("runtime", "digest"))


# --- The registry


def test_the_digest_of_the_newest_image_is_asked_for_with_the_registrys_own_token(images, settings):
    settings.GHCR_USER, settings.GHCR_TOKEN = "ada", "secret"
    assert registry.newest_digest("codex") == f"sha256:{'a' * 64}"
    (query,) = images.tokens
    assert query == {"scope": ["repository:org/workspace-template-codex:pull"], "service": ["registry"]}
    assert images.accounts[0].startswith("Basic ")
    assert "application/vnd.oci.image.index.v1+json" in images.asked[0]["Accept"]
    assert images.asked[-1]["path"] == "/v2/org/workspace-template-codex/manifests/latest"


def test_a_registry_that_asks_for_no_token_is_given_none(images):
    images.wants_token = False
    assert registry.newest_digest("codex")
    assert images.tokens == []
    assert "Authorization" not in images.asked[0]


@pytest.mark.parametrize(
    "realm", ["http://169.254.169.254/token", "http://localhost.:1/token", "file:///etc/passwd"]
)
def test_no_token_is_fetched_where_we_do_not_call(images, settings, realm):
    settings.MOLECULE_DEPLOY_MODE = "saas"
    images.realm = realm
    with pytest.raises(registry.RegistryError):
        registry.newest_digest("codex")
    assert images.tokens == []


@pytest.mark.parametrize("status", [403, 500, 302])
def test_other_answers_are_failures(images, status):
    images.answers = status
    with pytest.raises(registry.RegistryError, match=str(status)):
        registry.newest_digest("codex")


def test_a_registry_that_is_away_is_a_failure(images, settings):
    settings.MOLECULE_IMAGE_REGISTRY = "127.0.0.1:1/org"
    with pytest.raises(registry.RegistryError, match="ConnectError"):
        registry.newest_digest("codex")


def test_a_registry_that_does_not_answer_in_time_is_a_failure(images, monkeypatch):
    assert registry.TIMEOUT_S == 10

    def late(*args: Any, **kwargs: Any) -> httpx.Response:
        raise httpx.ReadTimeout("late")

    monkeypatch.setattr(httpx.Client, "head", late)
    with pytest.raises(registry.RegistryError, match="ReadTimeout"):
        registry.newest_digest("codex")


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("reg.example:5000/org/name", ("reg.example:5000", "org/name", "latest")),
        ("reg.example/org/name:v2", ("reg.example", "org/name", "v2")),
        ("reg.example/name:v2@sha256:ab", ("reg.example", "name", "sha256:ab")),
    ],
)
def test_a_port_is_no_tag_and_a_digest_goes_before_one(image, parts):
    assert registry._parts(image) == parts


# --- The sweep


def test_the_first_digest_seen_is_stored_without_action(images, engine, doorbell):
    assert tick(doorbell) == []
    assert remembered() == {"langgraph": f"sha256:{'a' * 64}", "codex": f"sha256:{'a' * 64}"}
    assert engine.called("refresh_image") == []


def test_a_moved_image_is_fetched_and_its_workspaces_restart_once(images, engine, doorbell):
    row = running(engine, doorbell)
    running(engine, doorbell, runtime="codex")
    tick(doorbell)
    moved = images.put("langgraph", "b")
    assert tick(doorbell) == ["langgraph"]
    assert remembered()["langgraph"] == moved
    assert list(WorkspaceLifecycle.objects.filter(restart_pending=True).values_list("pk", flat=True)) == [
        row.pk
    ]
    assert tick(doorbell) == []


def test_a_move_while_the_server_was_down_is_noticed(images, engine, doorbell):
    ImageWatchState.objects.create(runtime="codex", digest=f"sha256:{'9' * 64}")
    assert tick(doorbell) == ["codex"]


def test_an_image_that_cannot_be_fetched_is_tried_again_with_the_next_tick(images, engine, doorbell):
    tick(doorbell)
    before = remembered()["codex"]
    moved = images.put("codex", "b")
    engine.missing_images = {"codex"}
    assert tick(doorbell) == []
    assert remembered()["codex"] == before
    assert ImageWatchState.objects.get(pk="codex").last_error
    engine.missing_images = set()
    assert tick(doorbell) == ["codex"]
    assert (remembered()["codex"], ImageWatchState.objects.get(pk="codex").last_error) == (moved, None)


def test_a_pinned_runtime_is_not_asked_for(images, engine, doorbell):
    RuntimeImagePin.objects.create(template_name="codex", digest=f"sha256:{'c' * 64}")
    tick(doorbell)
    assert set(remembered()) == {"langgraph"}
    assert not any("codex" in one["path"] for one in images.asked)


def test_a_runtime_that_cannot_be_asked_for_skips_itself_only(images, engine, doorbell):
    tick(doorbell)
    known = remembered()["codex"]
    del images.digests["org/workspace-template-codex:latest"]
    images.put("langgraph", "b")
    assert tick(doorbell) == ["langgraph"]
    assert remembered()["codex"] == known
    assert "has no" in (ImageWatchState.objects.get(pk="codex").last_error or "")


def test_a_doubled_message_takes_an_image_up_once(images, engine, doorbell):
    tick(doorbell)
    moved = images.put("codex", "b")
    sweeps.watch_images(timezone.now())
    assert [sweeps.take_up_image("codex", moved), sweeps.take_up_image("codex", moved)] == [True, False]


# --- Machines pull for themselves


@pytest.fixture
def machines(ec2_settings: Any, images: Registry) -> Iterator[Ec2Backend]:
    backend = Ec2Backend.from_settings(recorded=lambda _: (), check_image=registry.check_image)
    yield backend
    backend.close()


def test_a_machines_image_is_looked_for_in_the_registry(machines, images):
    found = machines.ensure_image(spec(runtime="codex"))
    assert found.reference == f"{images.host}/org/workspace-template-codex:latest"
    assert images.asked


def test_an_image_that_the_registry_does_not_have_declines_the_start(machines, images):
    with pytest.raises(BackendError) as raised:
        machines.ensure_image(spec(runtime="crewai"))
    assert raised.value.error_class == "image_unavailable"


def test_a_pinned_digest_is_looked_for_as_it_is(machines, images):
    name = f"{images.host}/org/workspace-template-codex"
    assert machines.ensure_image(spec(image=f"{name}@sha256:{'a' * 64}")).digest == f"sha256:{'a' * 64}"
    with pytest.raises(BackendError):
        machines.ensure_image(spec(image=f"{name}@sha256:{'b' * 64}"))


def test_a_registry_that_cannot_be_asked_declines_nothing(machines, images):
    images.answers = 500
    assert machines.ensure_image(spec(runtime="codex")).reference


def test_another_registry_is_not_called(machines, images):
    machines.ensure_image(spec(image="elsewhere.example/org/image:1"))
    assert images.asked == []


def test_an_operator_pins_an_image_with_sql():
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO runtime_image_pins (template_name, digest) VALUES ('codex', %s)",
            [f"sha256:{'c' * 64}"],
        )
    pin = RuntimeImagePin.objects.get()
    assert (pin.updated_by, pin.notes, pin.updated_at is not None) == ("", "", True)
