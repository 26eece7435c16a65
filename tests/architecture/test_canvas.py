"""After every verb, what a canvas had plus the frames it got is what a fresh list says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from activity.events import Frame
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from provisioning.services import sweeps
from tests.architecture.canvas import Canvas
from tests.clients import admin, agent_of
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import EXTERNAL, Workspace
from workspaces.services import transitions

pytestmark = pytest.mark.django_db(transaction=True)
CARD = {"name": "Ada", "description": "Ada"}


@pytest.fixture(autouse=True)
def backend() -> Iterator[InMemoryBackend]:
    backend = InMemoryBackend()
    dispatch.wire(backend)
    yield backend
    dispatch.choose_again()


@pytest.fixture
def team() -> dict[str, Workspace]:
    """A lead with two members, one of them external, and somebody else."""
    lead = WorkspaceFactory(name="lead", current_task="", agent_card=CARD)
    return {
        "lead": lead,
        "member": WorkspaceFactory(name="member", parent=lead, current_task=""),
        "guest": WorkspaceFactory(name="guest", parent=lead, runtime=EXTERNAL, delivery_mode="poll"),
        "other": WorkspaceFactory(name="other", current_task="reading", active_tasks=1),
    }


Team = dict[str, Workspace]


def beat(row: Workspace, **body: Any) -> None:
    answer = agent_of(row.pk, generation=row.generation).post(
        "/registry/heartbeat", {"workspace_id": str(row.pk), **body}
    )
    assert answer.status_code == 200


def post(row: Workspace, verb: str) -> None:
    assert admin().post(f"/workspaces/{row.pk}/{verb}").status_code in {200, 202}


def create(team: Team) -> None:
    body = {"name": "new", "parent_id": str(team["lead"].pk), "canvas": {"x": 5, "y": 6}}
    assert admin().post("/workspaces", body).status_code == 201


def create_external(team: Team) -> None:
    assert admin().post("/workspaces", {"name": "new", "runtime": "external"}).status_code == 201


def register(team: Team) -> None:
    body = {"id": str(team["guest"].pk), "agent_card": CARD}
    assert agent_of(team["guest"].pk).post("/registry/register", body).status_code == 200


def fail(team: Team) -> None:
    transitions.claim_provisioning(team["member"].pk)
    row = Workspace.objects.get(pk=team["member"].pk)
    assert transitions.mark_failed(Workspace.objects.at(row.pk, row.generation), "no capacity")


def lose(team: Team) -> None:
    assert sweeps.check_health(timezone.now()) >= 2


def fall_silent(team: Team) -> None:
    old = timezone.now() - timedelta(hours=1)
    Workspace.objects.filter(pk=team["guest"].pk).update(last_heartbeat_at=old)
    dispatch.wire(None)
    assert sweeps.check_health(timezone.now()) == 1


def move(team: Team) -> None:
    answer = admin().patch(f"/workspaces/{team['member'].pk}", {"parent_id": str(team["other"].pk)})
    assert answer.status_code == 200


def pause_then_resume(team: Team) -> None:
    post(team["lead"], "pause")
    post(team["lead"], "resume")


def wedge_then_recover(team: Team) -> None:
    beat(team["lead"], error_rate=0.9, sample_error="boom")
    beat(team["lead"], error_rate=0.0, uptime_seconds=9)


def delete(team: Team) -> None:
    assert admin().delete(f"/workspaces/{team['lead'].pk}?confirm=true").status_code == 200


VERBS: dict[str, Callable[[Team], None]] = {
    "create": create,
    "create external": create_external,
    "register": register,
    "a new task": lambda team: beat(team["lead"], current_task="thinking", active_tasks=1),
    "a task's end": lambda team: beat(team["other"], current_task="", active_tasks=0),
    "degrade": lambda team: beat(team["lead"], error_rate=0.9, sample_error="boom"),
    "degrade and recover": wedge_then_recover,
    "restart": lambda team: post(team["other"], "restart"),
    "pause": lambda team: post(team["lead"], "pause"),
    "pause and resume": pause_then_resume,
    "hibernate": lambda team: post(team["member"], "hibernate"),
    "a failed start": fail,
    "lost compute": lose,
    "a silent guest": fall_silent,
    "move": move,
    "delete": delete,
}


def listed() -> list[Any]:
    return admin().get("/workspaces").json()  # type: ignore[no-any-return]


@pytest.mark.parametrize("verb", VERBS)
def test_frames_keep_a_canvas_true(verb: str, team: Team, published: list[Frame]):
    canvas = Canvas(listed())
    VERBS[verb](team)
    for frame in published:
        canvas.apply(frame)
    assert canvas.nodes == Canvas(listed()).nodes


def test_the_reference_canvas_notices_a_missing_frame(team: Team, published: list[Frame]):
    canvas = Canvas(listed())
    post(team["lead"], "pause")
    for frame in published[1:]:
        canvas.apply(frame)
    assert canvas.nodes != Canvas(listed()).nodes
