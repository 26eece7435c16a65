"""The record of operators' actions: complete, and never rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from config.errors import BadRequest, Conflict, Unavailable
from console.models import OperatorAction, Outcome
from console.services.audit import Asked, Told, act
from tests.console.conftest import few_queries, login, text_of

pytestmark = pytest.mark.django_db

LIST = "/console/console/operatoraction/"


def asked(reason: str = "it hangs") -> Asked:
    return Asked("ada", "restart", "workspace", "w1", reason, "Lead", "10.0.0.1")


def raising(error: Exception) -> Callable[[], Told]:
    def verb() -> Told:
        raise error

    return verb


def test_an_action_is_written_before_it_begins_and_ended_after():
    def verb() -> Told:
        row = OperatorAction.objects.get()
        assert (row.outcome, row.ended_at, row.actor, row.reason) == ("started", None, "ada", "it hangs")
        return Told("restarts")

    assert act(asked("  it hangs "), verb) == Told("restarts")
    row = OperatorAction.objects.get()
    assert (row.outcome, row.result, row.client_address) == ("done", "restarts", "10.0.0.1")
    assert row.ended_at is not None


@pytest.mark.parametrize("reason", ["", " \n\t ", "x" * 501])
def test_without_a_reason_nothing_is_done(reason: str):
    with pytest.raises(BadRequest):
        act(asked(reason), raising(AssertionError()))
    assert not OperatorAction.objects.exists()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Conflict("it is busy"), Outcome.REFUSED), (Unavailable("not now"), Outcome.FAILED)],
)
def test_what_the_product_refuses_is_recorded(error: Any, outcome: Outcome):
    assert act(asked(), raising(error)) == Told(error.text, outcome)
    row = OperatorAction.objects.get()
    assert (row.outcome, row.result) == (outcome, error.text)


def test_a_defect_is_recorded_without_its_words_and_not_hidden():
    with pytest.raises(ZeroDivisionError):
        act(asked(), raising(ZeroDivisionError("secret")))
    row = OperatorAction.objects.get()
    assert (row.outcome, row.result) == ("failed", "an error of the server: ZeroDivisionError")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM operator_actions",
        "UPDATE operator_actions SET reason = 'another'",
        "UPDATE operator_actions SET outcome = 'done', ended_at = now(), actor = 'eve'",
        "UPDATE operator_actions SET result = 'early'",
    ],
)
@pytest.mark.parametrize("is_ended", [False, True])
def test_the_database_keeps_what_is_written(statement: str, is_ended: bool):
    if is_ended:
        act(asked(), lambda: Told("done"))
    else:
        OperatorAction.objects.create(
            actor="ada", verb="restart", object_kind="workspace", object_id="w1", reason="it hangs"
        )
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(statement)
    row = OperatorAction.objects.get()
    assert (row.actor, row.reason, row.outcome) == ("ada", "it hangs", "done" if is_ended else "started")


def test_an_ended_action_is_not_ended_again():
    act(asked(), lambda: Told("done"))
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        OperatorAction.objects.update(outcome=Outcome.FAILED, ended_at=timezone.now())


@pytest.mark.parametrize("blank", ["actor", "verb", "reason"])
def test_the_database_refuses_a_record_that_does_not_say_who_what_or_why(blank: str):
    fields = {"actor": "ada", "verb": "restart", "object_kind": "workspace", "object_id": "w1", "reason": "x"}
    with pytest.raises(IntegrityError, match="says_who_and_why"), transaction.atomic():
        OperatorAction.objects.create(**{**fields, blank: ""})


def test_everybody_on_duty_reads_the_record_and_nobody_changes_it(admin_client: Client):
    for number in range(60):
        act(asked(f"reason {number}"), lambda: Told("restarts"))
    row = OperatorAction.objects.order_by("-started_at").first()
    assert row is not None
    for browser in (login("viewer"), login("administrator"), admin_client):
        with few_queries():
            page = text_of(browser.get(LIST))
        assert "reason 59" in page
        assert "reason 1<" not in page  # a page holds fifty
        assert "it hangs" not in text_of(browser.get(LIST, {"q": "reason 7"}))
        assert "restarts" in text_of(browser.get(f"{LIST}{row.pk}/change/"))
        for path in (f"{LIST}add/", f"{LIST}{row.pk}/delete/"):
            assert browser.post(path, {"post": "yes"}).status_code == 403
        assert browser.post(f"{LIST}{row.pk}/change/", {"reason": "x"}).status_code == 403
    assert OperatorAction.objects.count() == 60


def test_who_has_no_role_sees_nothing():
    assert login(None).get(LIST).status_code == 403
    assert Client().get(LIST).status_code == 302


def test_roles_differ_by_what_they_may_do():
    def may(name: str) -> set[str]:
        return set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))

    assert {"view_workspace", "view_delegation", "view_operatoraction", "view_provisionrun"} <= may("viewer")
    assert all(one.startswith("view_") for one in may("viewer"))
    assert may("operator") - may("viewer") == {"operate"}
    assert may("administrator") - may("operator") == {"administer"}
    assert not {"view_user", "view_permission", "view_session"} & may("administrator")


@pytest.mark.django_db(transaction=True)
def test_a_migrate_completes_roles_and_leaves_what_was_added():
    group = Group.objects.get(name="viewer")
    some = group.permissions.first()
    assert some is not None
    group.permissions.remove(some)
    added = Group.objects.get(name="operator").permissions.get(codename="operate")
    group.permissions.add(added)
    call_command("migrate", verbosity=0)
    assert {some, added} <= set(group.permissions.all())
    Group.objects.all().delete()
    call_command("migrate", verbosity=0)
    assert Group.objects.count() == 3
