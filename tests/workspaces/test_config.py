"""/workspaces/:id/config: the data of the Config tab, merged by the database."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.clients import admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace, WorkspaceConfig

pytestmark = pytest.mark.django_db


def path(row: Workspace) -> str:
    return f"/workspaces/{row.pk}/config"


def raw(row: Workspace, body: bytes) -> Any:
    return admin()._client.patch(path(row), body, content_type="text/plain")


def test_keys_are_merged_at_the_top_level_only():
    row = WorkspaceFactory()
    assert admin().get(path(row)).json() == {"data": {}}
    agent = agent_of(row.pk)
    answer = agent.patch(path(row), {"a": 1, "b": {"c": 1, "d": 2}, "gone": 1})
    assert (answer.status_code, answer.json()) == (200, {"status": "updated"})
    first = WorkspaceConfig.objects.get(pk=row.pk).updated_at
    agent.patch(path(row), {"b": {"c": 3}, "gone": None, "e": "ä"})
    assert agent.get(path(row)).json() == {"data": {"a": 1, "b": {"c": 3}, "gone": None, "e": "ä"}}
    assert WorkspaceConfig.objects.get(pk=row.pk).updated_at >= first


@pytest.mark.django_db(transaction=True)
def test_patches_at_once_are_all_kept():
    row = WorkspaceFactory()
    at_once(*[lambda key=key: admin().patch(path(row), {key: 1}) for key in "abcdefgh"])
    assert admin().get(path(row)).json()["data"] == dict.fromkeys("abcdefgh", 1)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}'])
def test_what_is_no_json_is_refused(body):
    row = WorkspaceFactory()
    answer = raw(row, body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid JSON"})


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"7", b"null", b'[{"a": 1}]'])
def test_only_an_object_can_be_merged(body):
    row = WorkspaceFactory()
    answer = raw(row, body)
    assert (answer.status_code, answer.json()) == (400, {"error": "config must be a JSON object"})
    assert not WorkspaceConfig.objects.exists()


@pytest.mark.parametrize("body", [b'{"a": "\\u0000"}', b'{"\\u0000": 1}', b'{"a": [{"b": "x\\u0000"}]}'])
def test_a_nul_is_refused(body):
    answer = raw(WorkspaceFactory(), body)
    assert (answer.status_code, answer.json()) == (400, {"error": "config must not contain NUL characters"})


def test_a_body_may_have_256_kib_and_not_a_byte_more():
    row = WorkspaceFactory()
    most = b'{"a":"' + b"x" * (256 * 1024 - 8) + b'"}'
    assert len(most) == 256 * 1024
    assert raw(row, most).status_code == 200
    answer = raw(row, most + b" ")
    assert (answer.status_code, answer.json()) == (413, {"error": "body too large or unreadable"})


def test_the_config_is_the_workspaces_own():
    row, other = WorkspaceFactory(), WorkspaceFactory()
    for caller in (anonymous(), agent_of(other.pk)):
        assert caller.get(path(row)).status_code == 401
        assert caller.patch(path(row), {"a": 1}).status_code == 401
    assert not WorkspaceConfig.objects.exists()


def test_a_removed_or_unknown_workspace_is_not_found():
    for gone in (WorkspaceFactory(status=Status.REMOVED), Workspace(id=uuid4())):
        assert admin().get(path(gone)).status_code == 404
        assert admin().patch(path(gone), {"a": 1}).json() == {"error": "workspace not found"}


def test_a_workspace_removed_meanwhile_gets_no_config():
    from config.errors import NotFound
    from workspaces.services import merge_config

    for gone in (WorkspaceFactory(status=Status.REMOVED).pk, uuid4()):
        with pytest.raises(NotFound):
            merge_config(workspace_id=gone, patch={"a": 1})
    assert not WorkspaceConfig.objects.exists()


def test_a_database_that_refuses_is_told_in_fixed_words():
    row = WorkspaceFactory()
    with statements_fail("workspace_config"):
        answer = admin().patch(path(row), {"a": 1})
    assert (answer.status_code, answer.json()) == (500, {"error": "failed to update config"})
