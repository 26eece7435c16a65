"""The auth classes on real routes: status and text of each refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import Api, admin, agent_of, anonymous
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("error", "") if answer.status_code >= 400 else ""


def test_an_admin_route_takes_an_operator_only() -> None:
    workspace = WorkspaceFactory()
    assert refusal(admin().get("/workspaces")) == (200, "")
    assert refusal(anonymous().get("/workspaces")) == (401, "admin auth required")
    assert refusal(Api("junk").get("/workspaces")) == (401, "invalid admin auth token")
    assert refusal(agent_of(workspace.pk).get("/workspaces")) == (401, "invalid admin auth token")


def test_a_workspace_route_takes_an_operator_and_the_workspace_itself() -> None:
    workspace, other = WorkspaceFactory(), WorkspaceFactory()
    path = f"/workspaces/{workspace.pk}/activity"
    assert refusal(admin().get(path)) == (200, "")
    assert refusal(agent_of(workspace.pk).get(path)) == (200, "")
    assert refusal(anonymous().get(path)) == (401, "missing workspace auth token")
    assert refusal(Api("junk").get(path)) == (401, "invalid workspace auth token")
    assert refusal(agent_of(other.pk).get(path)) == (401, "invalid workspace auth token")


def test_an_own_route_takes_the_workspace_itself_only() -> None:
    workspace, other = WorkspaceFactory(), WorkspaceFactory()
    path, body = f"/workspaces/{workspace.pk}/activity/ack", {"acked_seq": 0}
    assert refusal(agent_of(workspace.pk).post(path, body)) == (200, "")
    assert refusal(anonymous().post(path, body)) == (401, "missing workspace auth token")
    assert refusal(admin().post(path, body)) == (401, "invalid workspace auth token")
    assert refusal(agent_of(other.pk).post(path, body)) == (401, "invalid workspace auth token")


def test_a_route_may_differ_by_method() -> None:
    workspace = WorkspaceFactory()
    path = f"/workspaces/{workspace.pk}"
    assert anonymous().get(path).status_code == 200
    assert anonymous()._client.head(path).status_code == 200
    assert refusal(anonymous().patch(path, {})) == (401, "missing workspace auth token")
    assert refusal(agent_of(workspace.pk).patch(path, {})) == (200, "")
    assert refusal(agent_of(workspace.pk).delete(path)) == (401, "invalid admin auth token")


@pytest.mark.parametrize("text", ["global", "system:x", "00000000"])
def test_a_bad_id_is_a_400_before_the_credential_is_looked_at(text: str) -> None:
    for path in (f"/workspaces/{text}/activity", f"/workspaces/{text}/notify", f"/workspaces/{text}"):
        for caller in (anonymous(), admin()):
            answer = caller.post(path) if path.endswith("notify") else caller.get(path)
            assert refusal(answer) == (400, "invalid workspace ID"), path


def test_a_401_announces_bearer() -> None:
    assert anonymous().get("/workspaces")["WWW-Authenticate"] == "Bearer"
