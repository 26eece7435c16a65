"""/workspaces/:id/model and /provider: sealed, and read again by the next start."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from access.models import WorkspaceSecret
from access.services import secret_environment
from provisioning.models import WorkspaceLifecycle
from tests.clients import admin, agent_of
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.provisioning.conftest import Doorbell, backend, doorbell  # noqa: F401
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = pytest.mark.django_db

WORDS = [("model", "MODEL_PROVIDER"), ("provider", "LLM_PROVIDER")]


@pytest.fixture(params=WORDS, ids=lambda pair: pair[0])
def word(request: Any) -> str:
    return str(request.param[0])


def path(row: Workspace, word: str) -> str:
    return f"/workspaces/{row.pk}/{word}"


def put(row: Workspace, word: str, value: Any, caller: Any = None) -> Any:
    return (caller or admin()).put(path(row, word), {word: value})


@pytest.mark.parametrize(("word", "key"), WORDS)
def test_a_choice_is_kept_sealed_and_given_to_the_next_start(word, key, settings):
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    row = WorkspaceFactory()
    assert admin().get(path(row, word)).json() == {word: "", "source": "default"}
    answer = put(row, word, " vendor/large ")
    assert (answer.status_code, answer.json()) == (200, {"status": "saved", word: "vendor/large"})
    assert admin().get(path(row, word)).json() == {word: "vendor/large", "source": "workspace_secrets"}
    assert b"vendor" not in bytes(WorkspaceSecret.objects.get(key=key).encrypted_value)
    assert secret_environment(row.pk) == {key: "vendor/large"}


def test_an_empty_choice_clears(word):
    row = WorkspaceFactory()
    put(row, word, "a")
    for _ in range(2):
        answer = put(row, word, "")
        assert (answer.status_code, answer.json()) == (200, {"status": "cleared"})
    assert admin().get(path(row, word)).json() == {word: "", "source": "default"}


def test_the_model_and_the_provider_are_two_choices():
    row = WorkspaceFactory()
    put(row, "model", "m")
    put(row, "provider", "p")
    put(row, "provider", "")
    assert admin().get(path(row, "model")).json()["model"] == "m"


@pytest.mark.django_db(transaction=True)
def test_each_change_asks_for_one_restart_and_an_unchanged_value_for_none(
    word: str,
    backend: Any,  # noqa: F811
    doorbell: Doorbell,  # noqa: F811
):
    row = WorkspaceFactory()
    steps = [("a", True), ("a", False), ("b", True), ("", True), ("", False)]
    for value, asks in steps:
        doorbell.rung.clear()
        WorkspaceLifecycle.objects.all().delete()
        put(row, word, value)
        assert [job for job, _ in doorbell.rung] == (["provisioning.restart_cycle"] if asks else [])
        assert WorkspaceLifecycle.objects.filter(restart_pending=True).count() == int(asks)


@pytest.mark.django_db(transaction=True)
def test_a_restart_is_asked_for_together_with_the_change_or_neither_happens(
    word: str,
    backend: Any,  # noqa: F811
    doorbell: Doorbell,  # noqa: F811
):
    row = WorkspaceFactory()
    with statements_fail('UPDATE "workspace_lifecycle"'):
        answer = put(row, word, "a")
    assert (answer.status_code, answer.json()) == (500, {"error": f"failed to save {word}"})
    assert not WorkspaceSecret.objects.exists()
    assert not doorbell.rung


@pytest.mark.django_db(transaction=True)
def test_an_agent_that_changes_its_own_choice_is_not_restarted(
    word: str,
    backend: Any,  # noqa: F811
    doorbell: Doorbell,  # noqa: F811
):
    row = WorkspaceFactory()
    assert put(row, word, "a", agent_of(row.pk)).json()["status"] == "saved"
    assert not doorbell.rung
    put(row, word, "b", admin())
    assert len(doorbell.rung) == 1


@pytest.mark.parametrize("fields", [{"status": Status.PAUSED}, {"runtime": "external"}])
@pytest.mark.django_db(transaction=True)
def test_what_is_parked_or_runs_elsewhere_is_not_restarted(
    fields: dict[str, Any],
    backend: Any,  # noqa: F811
    doorbell: Doorbell,  # noqa: F811
):
    row = WorkspaceFactory(**fields)
    assert put(row, "model", "a").status_code == 200
    assert not doorbell.rung


@pytest.mark.django_db(transaction=True)
def test_of_two_equal_choices_at_once_one_is_the_change(
    backend: Any,  # noqa: F811
    doorbell: Doorbell,  # noqa: F811
):
    row = WorkspaceFactory()
    put(row, "model", "a")
    doorbell.rung.clear()
    at_once(lambda: put(row, "model", "b"), lambda: put(row, "model", "b"))
    assert len(doorbell.rung) == 1
    assert admin().get(path(row, "model")).json()["model"] == "b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("m" * 101, "{} must be at most 100 characters"),
        ("a\nb", "{} must not contain newline characters"),
        ("a\rb", "{} must not contain newline characters"),
        (7, "invalid request body"),
        (None, "invalid request body"),
    ],
)
def test_a_value_that_is_no_name_is_refused(word, value, text):
    row = WorkspaceFactory()
    put(row, word, "before")
    answer = put(row, word, value)
    assert (answer.status_code, answer.json()) == (400, {"error": text.format(word)})
    assert admin().get(path(row, word)).json()[word] == "before"
    for body in ({}, [], "x"):
        assert admin().put(path(row, word), body).json() == {"error": "invalid request body"}


def test_a_nul_is_refused(word):
    row = WorkspaceFactory()
    assert put(row, word, "a\x00b").status_code == 400
    assert not WorkspaceSecret.objects.exists()


def test_a_removed_or_unknown_workspace_is_not_found(word):
    for gone in (WorkspaceFactory(status=Status.REMOVED), Workspace(id=uuid4())):
        for answer in (admin().get(path(gone, word)), put(gone, word, "a"), put(gone, word, "")):
            assert (answer.status_code, answer.json()) == (404, {"error": "workspace not found"})


@pytest.mark.parametrize("value", ["a", ""])
def test_a_workspace_removed_meanwhile_keeps_no_choice(value):
    from config.errors import NotFound
    from workspaces.services import choose
    from workspaces.services.model_choice import Choice

    row = WorkspaceFactory(status=Status.REMOVED)
    with pytest.raises(NotFound):
        choose(workspace_id=row.pk, choice=Choice.MODEL, value=value, by_its_agent=False)
    assert not WorkspaceSecret.objects.exists()


def test_a_value_that_cannot_be_read_is_told_and_can_be_replaced(word, settings):
    settings.SECRETS_ENCRYPTION_KEY = "k" * 32
    row = WorkspaceFactory()
    put(row, word, "a")
    settings.SECRETS_ENCRYPTION_KEY = "l" * 32
    answer = admin().get(path(row, word))
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to decrypt"})
    assert put(row, word, "a").status_code == 200
    assert admin().get(path(row, word)).json()[word] == "a"


def test_a_database_that_refuses_is_told_in_fixed_words(word):
    row = WorkspaceFactory()
    put(row, word, "a")
    with statements_fail('"workspace_secrets"'):
        for answer, text in (
            (admin().get(path(row, word)), "query failed"),
            (put(row, word, "b"), f"failed to save {word}"),
            (put(row, word, ""), f"failed to clear {word}"),
        ):
            assert (answer.status_code, answer.json()) == (500, {"error": text})
    assert admin().get(path(row, word)).json()[word] == "a"
