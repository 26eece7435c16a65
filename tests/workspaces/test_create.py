"""POST /workspaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import DataError, connection

from access.models import WorkspaceAuthToken, WorkspaceSecret
from activity.models import StructureEvent
from provisioning import dispatch
from tests.clients import admin, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace, WorkspaceConfig

pytestmark = pytest.mark.django_db


@pytest.fixture
def no_backend() -> Iterator[None]:
    """No compute, although an engine may answer on this machine."""
    dispatch.wire(None)
    yield
    dispatch.choose_again()


def create(**body: Any) -> Any:
    return admin().post("/workspaces", {"name": "A", **body})


def test_a_workspace_is_created_with_the_servers_defaults():
    answer = create()
    assert answer.status_code == 201
    body = answer.json()
    assert body["status"] == "provisioning"
    assert body["awareness_namespace"] == f"workspace:{body['id']}"
    assert (body["workspace_access"], body["name"]) == ("none", "A")
    row = Workspace.objects.get(pk=body["id"])
    assert (row.tier, row.runtime, row.delivery_mode, row.parent_id) == (3, "langgraph", "push", None)


def test_the_default_tier_is_four_where_each_workspace_has_its_own_machine(settings):
    settings.MOLECULE_DEPLOY_MODE = "saas"
    assert Workspace.objects.get(pk=create().json()["id"]).tier == 4
    settings.MOLECULE_DEPLOY_MODE = "prod"  # a typo is not SaaS
    assert Workspace.objects.get(pk=create().json()["id"]).tier == 3


def test_without_a_backend_the_row_is_failed_at_once_with_a_sentence_that_helps(published, no_backend):
    body = create(tier=1).json()
    row = Workspace.objects.get(pk=body["id"])
    assert row.status == Status.FAILED
    assert row.last_sample_error.startswith("no provisioning backend available")
    events = (
        StructureEvent.objects.filter(workspace_id=row.pk)
        .order_by("seq")
        .values_list("event_type", flat=True)
    )
    assert list(events) == ["WORKSPACE_PROVISIONING", "WORKSPACE_PROVISION_FAILED"]
    data = WorkspaceConfig.objects.get(pk=row.pk).data
    assert data == {"name": "A", "runtime": "langgraph", "tier": 1, "template": None}


def test_only_an_operator_creates():
    assert anonymous().post("/workspaces", {"name": "A"}).status_code == 401
    assert not Workspace.objects.exists()


@pytest.mark.parametrize("body", [{}, {"name": " "}, {"name": 7}, {"name": "A", "tier": "two"}, ["A"], "A"])
def test_a_malformed_body_is_refused_with_one_text(body):
    answer = admin().post("/workspaces", body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid workspace payload"})


@pytest.mark.parametrize(
    "fields",
    [{"name": "x" * 256}, {"role": "a\nb"}, {"name": "a{b"}, {"runtime": "r" * 101}, {"model": "m" * 101}],
)
def test_fields_over_their_limits_are_refused(fields):
    answer = create(**fields)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid workspace fields"})
    assert not Workspace.objects.exists()


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"tier": 5}, 400, "tier must be between 1 and 4"),
        ({"template": "../etc", "runtime": "hermes", "model": "m"}, 400, "invalid template"),
        ({"template": "/etc"}, 400, "invalid template"),
        ({"template": "support"}, 422, "could not resolve a runtime from the template"),
        ({"runtime": "cobol"}, 422, "unsupported workspace runtime"),
        ({"workspace_dir": "/etc/x"}, 400, "invalid workspace directory"),
        ({"workspace_dir": "/run/docker.sock"}, 400, "invalid workspace directory"),
        ({"workspace_dir": "rel"}, 400, "invalid workspace directory"),
        ({"workspace_dir": "/a/../b"}, 400, "invalid workspace directory"),
        ({"workspace_access": "read_write"}, 400, "invalid workspace access"),
        ({"delivery_mode": "webhook"}, 400, "delivery_mode must be 'push' or 'poll'"),
        ({"budget_limit": 1.5}, 400, "invalid workspace payload"),
        ({"budget_limit": -1}, 400, "budget_limit must be >= 0 (USD cents)"),
        ({"parent_id": str(uuid4())}, 400, "parent workspace not found"),
        ({"parent_id": "nobody"}, 400, "parent workspace not found"),
        (
            {"external": True, "url": "http://169.254.169.254/"},
            400,
            "url targets a blocked address: link-local",
        ),
    ],
)
def test_bad_fields_leave_no_row(fields, status, text):
    answer = create(**fields)
    assert (answer.status_code, answer.json()["error"]) == (status, text)
    assert not Workspace.objects.exists()


def test_a_whole_number_with_a_decimal_point_is_a_budget():
    assert Workspace.objects.get(pk=create(budget_limit=500.0).json()["id"]).budget_limit == 500


def test_a_taken_name_is_numbered_and_a_removed_one_is_free_again():
    first = create().json()
    assert create().json()["name"] == "A (2)"
    parent = create(name="team").json()["id"]
    assert create(parent_id=parent).json()["name"] == "A"
    admin().delete(f"/workspaces/{first['id']}")
    assert create().json()["name"] == "A"


def test_a_long_name_is_shortened_to_hold_its_number():
    create(name="x" * 255)
    name = create(name="x" * 255).json()["name"]
    assert len(name) == 255
    assert name.endswith("x (2)")


@pytest.mark.django_db(transaction=True)
def test_ten_creations_at_once_give_ten_names():
    answers = at_once(*[create] * 10)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["name"] for answer in answers}) == 10


@pytest.mark.parametrize(
    ("secrets", "text"),
    [
        ({"API_KEY": "fine", "LD_PRELOAD": "/x.so"}, "reserved key"),
        ({"API_KEY": "x" * (64 * 1024 + 1)}, "value too large (64 KiB at most)"),
    ],
)
def test_a_secret_that_its_own_route_refuses_is_refused_at_creation(secrets, text):
    answer = create(secrets=secrets)
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert not Workspace.objects.exists()


def test_secrets_and_the_chosen_model_are_kept_sealed(settings):
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    one = create(secrets={"API_KEY": "s3cret"}, model="openai/gpt-x").json()["id"]
    rows = WorkspaceSecret.objects.filter(workspace_id=one)
    assert set(rows.values_list("key", flat=True)) == {"API_KEY", "MODEL_PROVIDER", "LLM_PROVIDER"}
    assert all(b"s3cret" not in bytes(row.encrypted_value) for row in rows)


def test_an_external_workspace_waits_for_its_agent_and_shows_its_token_once():
    answer = create(runtime="external")
    body = answer.json()
    assert (body["external"], body["status"]) == (True, "awaiting_agent")
    assert len(body["connection"]["auth_token"]) == 43
    assert answer.headers["Cache-Control"] == "no-store"
    row = Workspace.objects.get(pk=body["id"])
    assert (row.status, row.delivery_mode) == (Status.AWAITING_AGENT, "poll")
    assert WorkspaceAuthToken.objects.filter(workspace=row).count() == 1
    events = StructureEvent.objects.order_by("seq").values_list("event_type", flat=True)
    assert list(events) == ["WORKSPACE_PROVISIONING", "WORKSPACE_AWAITING_AGENT"]


def test_an_external_workspace_with_a_public_url_is_online_without_a_token():
    body = create(external=True, url="https://8.8.8.8/a2a").json()
    assert (body["status"], "connection" in body) == ("online", False)
    assert not WorkspaceAuthToken.objects.exists()


def test_a_childs_position_is_announced_relative_to_its_parent(published):
    parent = create(name="team", canvas={"x": 100, "y": 50}).json()["id"]
    create(parent_id=parent, canvas={"x": 130, "y": 90})
    payload = StructureEvent.objects.filter(event_type="WORKSPACE_PROVISIONING").order_by("-seq")[0].payload
    assert (payload["parent_id"], payload["x"], payload["y"]) == (parent, 30, 40)
    listed = admin().get("/workspaces").json()[1]
    assert (listed["x"], listed["y"]) == (130, 90)


def test_nothing_is_announced_of_a_creation_that_fails(monkeypatch, published):
    from workspaces.services import crud

    def broken(**given: Any) -> None:
        raise RuntimeError("cannot seal")

    monkeypatch.setattr(crud, "store_secrets", broken)
    answer = create(secrets={"K": "v"})
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to encrypt secret: K"})
    assert not Workspace.objects.exists()
    assert not StructureEvent.objects.exists()
    assert published == []


@pytest.mark.django_db(transaction=True)
def test_the_secret_that_could_not_be_kept_is_named(monkeypatch):
    from workspaces.services import crud

    real = crud.store_secrets

    def broken(*, workspace_id: Any, values: dict[str, str]) -> None:
        if "B" in values:
            raise DataError("value too odd")
        real(workspace_id=workspace_id, values=values)

    monkeypatch.setattr(crud, "store_secrets", broken)
    answer = create(secrets={"A": "1", "B": "2"})
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to save secret: B"})
    assert not Workspace.objects.exists()
    assert not WorkspaceSecret.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_insert_that_fails_says_so_in_a_fixed_sentence():
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE workspaces RENAME COLUMN awareness_namespace TO elsewhere")
    try:
        answer = create()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE workspaces RENAME COLUMN elsewhere TO awareness_namespace")
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to create workspace"})


def test_a_position_may_carry_more_keys():
    answer = create(
        canvas={"x": 4, "name": "n"},
    )
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "https://8.8.8.8/\x00", "external": True},
        {"workspace_dir": "/a\x00b"},
        {"secrets": {"A\x00": "1"}},
        {"secrets": {"A": "1\x00"}},
        {"secrets": {"not a name": "1"}},
        {"canvas": {"x": "left"}},
        {"canvas": [1, 2]},
        {"initial_memories": "none"},
        {"max_concurrent_tasks": "two"},
    ],
)
def test_what_cannot_be_stored_is_a_malformed_body(fields):
    answer = create(**fields)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid workspace payload"})
    assert not Workspace.objects.exists()


def test_every_field_is_judged_before_a_template_is_asked_and_an_address_looked_up():
    bad = {"template": "support", "tier": 9}
    assert create(**bad).json()["error"] == "tier must be between 1 and 4"
    nobody = {"external": True, "url": "http://169.254.169.254/", "parent_id": str(uuid4())}
    assert create(**nobody).json()["error"] == "parent workspace not found"


@pytest.mark.django_db(transaction=True)
def test_no_child_is_created_under_a_team_that_is_being_deleted():
    for _ in range(6):
        top = WorkspaceFactory()
        team = WorkspaceFactory(parent=top)
        outcomes = at_once(
            lambda team=team: create(name="child", parent_id=str(team.pk)),
            lambda top=top: admin().delete(f"/workspaces/{top.pk}?confirm=true"),
        )
        assert outcomes[0].status_code in {201, 400}
        assert outcomes[1].status_code == 200
        alive = Workspace.objects.live().filter(parent__status=Status.REMOVED)
        assert not alive.exists()
