"""/canvas/viewport: where the canvas was last looking; and who may say so."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import CanvasViewport

pytestmark = pytest.mark.django_db

PATH = "/canvas/viewport"
SOMEWHERE = {"x": 1.5, "y": -2.0, "zoom": 0.5}


def test_before_anybody_looked_it_is_the_middle():
    assert anonymous().get(PATH).json() == {"x": 0, "y": 0, "zoom": 1}


def test_a_saved_viewport_is_read_again_by_everybody():
    answer = admin().put(PATH, SOMEWHERE)
    assert (answer.status_code, answer.json()) == (200, {"status": "saved"})
    first = CanvasViewport.objects.get().saved_at
    assert anonymous().get(PATH).json() == SOMEWHERE
    admin().put(PATH, {"x": 9})
    assert anonymous().get(PATH).json() == {"x": 9, "y": 0, "zoom": 1}
    assert CanvasViewport.objects.get().saved_at > first


@pytest.mark.django_db(transaction=True)
def test_two_first_saves_at_once_leave_one_row():
    answers = at_once(*[lambda: admin().put(PATH, SOMEWHERE)] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert str(CanvasViewport.objects.get().pk) == "00000000-0000-0000-0000-000000000001"


def test_the_database_refuses_a_second_viewport():
    with pytest.raises(IntegrityError), transaction.atomic():
        CanvasViewport.objects.create(id="00000000-0000-0000-0000-000000000002")


@pytest.mark.parametrize(
    "body",
    [{"zoom": 0}, {"zoom": -1}, {"x": "1"}, {"y": None}, {"x": True}, {"zoom": []}, [], "x"],
)
def test_what_is_no_viewport_is_refused(body):
    answer = admin().put(PATH, body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid viewport data"})
    assert not CanvasViewport.objects.exists()


@pytest.mark.parametrize("body", ['{"x":1e999}', '{"x":NaN}', '{"x":', '{"zoom":1e-999}'])
def test_what_is_no_number_is_refused(body):
    answer = admin()._client.put(PATH, body, content_type="application/json")
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid viewport data"})


def test_any_valid_credential_may_save_it():
    assert agent_of(WorkspaceFactory().pk).put(PATH, SOMEWHERE).status_code == 200


def test_nobody_else_may():
    for caller, text in ((anonymous(), "admin auth required"), (Api("junk"), "invalid admin auth token")):
        answer = caller.put(PATH, SOMEWHERE)
        assert (answer.status_code, answer.json()) == (401, {"error": text})
    assert not CanvasViewport.objects.exists()


OWN = "http://testserver"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"HTTP_ORIGIN": OWN}, 200),
        ({"HTTP_ORIGIN": "https://testserver"}, 200),
        ({"HTTP_REFERER": OWN}, 200),
        ({"HTTP_REFERER": f"{OWN}/canvas?x=1"}, 200),
        ({}, 401),
        ({"HTTP_ORIGIN": "http://elsewhere"}, 401),
        ({"HTTP_ORIGIN": f"{OWN}/"}, 401),
        ({"HTTP_ORIGIN": f"{OWN}.evil.example"}, 401),
        ({"HTTP_REFERER": f"{OWN}.evil.example/"}, 401),
        ({"HTTP_REFERER": f"{OWN}@evil.example/"}, 401),
        ({"HTTP_REFERER": f"http://evil.example/?{OWN}/"}, 401),
    ],
)
def test_the_canvas_behind_this_address_needs_no_credential(settings, headers, status):
    settings.CANVAS_PROXY_URL = "http://127.0.0.1:3000"
    assert Api(HTTP_HOST="testserver", **headers).put(PATH, SOMEWHERE).status_code == status
    settings.CANVAS_PROXY_URL = ""
    assert Api(HTTP_HOST="testserver", **headers).put(PATH, SOMEWHERE).status_code == 401


def test_a_bad_credential_is_not_saved_by_its_origin(settings):
    settings.CANVAS_PROXY_URL = "http://127.0.0.1:3000"
    assert Api("junk", HTTP_HOST="testserver", HTTP_ORIGIN=OWN).put(PATH, SOMEWHERE).status_code == 401


def test_the_origin_opens_nothing_else(settings):
    settings.CANVAS_PROXY_URL = "http://127.0.0.1:3000"
    row = WorkspaceFactory()
    browser = Api(HTTP_HOST="testserver", HTTP_ORIGIN=OWN, HTTP_REFERER=f"{OWN}/")
    assert browser.get("/workspaces").status_code == 401
    assert browser.get(f"/workspaces/{row.pk}/config").status_code == 401
