"""Which plugins an org allows: the list, and the two ways by which a workspace is given one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from access.services import Caller, mint_org_token
from provisioning import dispatch
from provisioning.backends.memory import InMemoryBackend
from templates.models import AllowedPlugin
from tests.clients import Api, admin, agent_of, anonymous
from tests.conftest import at_once
from tests.outages import statements_fail
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Status, Workspace

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]


@pytest.fixture(autouse=True)
def shelf(settings: Any, tmp_path: Path) -> None:
    settings.PLUGINS_DIR = str(tmp_path)
    for name in ("careful", "audit"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plugin.yaml").write_text(f"name: {name}\n")


@pytest.fixture
def backend() -> Any:
    memory = InMemoryBackend()
    dispatch.wire(memory)
    yield memory
    dispatch.choose_again()


def url(org: Any) -> str:
    return f"/orgs/{org}/plugins/allowlist"


def put(org: Workspace, *names: str, by: str = "ada") -> Any:
    return admin().put(url(org.pk), {"plugins": list(names), "enabled_by": by})


def test_the_list_is_replaced_whole_and_an_empty_one_allows_all() -> None:
    org = WorkspaceFactory()
    assert admin().get(url(org.pk)).json() == {"org_id": str(org.pk), "plugins": [], "allow_all": True}
    answer = put(org, "careful", "audit", "careful")
    assert (answer.status_code, answer.json()) == (
        200,
        {"org_id": str(org.pk), "plugins": ["audit", "careful"], "allow_all": False},
    )
    put(org, "careful", "third", by="bob")
    body = admin().get(url(org.pk)).json()
    assert [(one["plugin_name"], one["enabled_by"]) for one in body["plugins"]] == [
        ("careful", "ada"),
        ("third", "bob"),
    ]
    assert all(one["enabled_at"] for one in body["plugins"])
    assert put(org).json() == {"org_id": str(org.pk), "plugins": [], "allow_all": True}
    assert not AllowedPlugin.objects.exists()


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\\b", "..", "x..y"])
def test_a_name_that_is_a_path_is_refused_and_changes_nothing(name: str) -> None:
    org = WorkspaceFactory()
    put(org, "careful")
    answer = put(org, "audit", name)
    assert answer.status_code == 400
    assert (answer.json()["error"], answer.json()["plugin_name"]) == ("invalid plugin name", name)
    assert answer.json()["detail"]
    assert AllowedPlugin.objects.get().plugin_name == "careful"


@pytest.mark.parametrize(
    "body",
    [{}, {"plugins": ["a"]}, {"plugins": "a", "enabled_by": "x"}, {"plugins": [1], "enabled_by": "x"},
     {"plugins": [], "enabled_by": " "}, {"enabled_by": "x"}],
)  # fmt: skip
def test_a_malformed_list_is_refused(body: Any) -> None:
    answer = admin().put(url(WorkspaceFactory().pk), body)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid request body"})


def test_only_a_living_root_is_an_org() -> None:
    root = WorkspaceFactory()
    child, gone = WorkspaceFactory(parent=root), WorkspaceFactory(status=Status.REMOVED)
    for one in (child.pk, gone.pk, uuid4()):
        assert admin().get(url(one)).json() == {"error": "org not found"}
        answer = admin().put(url(one), {"plugins": ["a"], "enabled_by": "x"})
        assert (answer.status_code, answer.json()) == (404, {"error": "org not found"})
    assert admin().get(url("x")).status_code == 400


def test_a_token_of_another_org_learns_nothing() -> None:
    one, other = WorkspaceFactory(), WorkspaceFactory()
    bound = Api(mint_org_token(caller=Caller("ada", org_id=one.pk)).plaintext)
    loose = Api(mint_org_token(caller=Caller("ada")).plaintext)
    assert bound.get(url(one.pk)).status_code == 200
    for client, org in ((bound, other.pk), (bound, uuid4()), (loose, one.pk)):
        answer = client.put(url(org), {"plugins": [], "enabled_by": "x"})
        assert (answer.status_code, answer.json()) == (403, {"error": "org access denied"})
    assert anonymous().get(url(one.pk)).status_code == 401
    assert agent_of(one.pk).get(url(one.pk)).status_code == 401


def test_of_two_lists_at_once_one_stands_whole() -> None:
    org = WorkspaceFactory()
    lists = [["a", "b", "c"], ["c", "d"]]
    for _ in range(5):
        answers = at_once(*[lambda names=names: put(org, *names) for names in lists])
        assert [answer.status_code for answer in answers] == [200, 200]
        assert sorted(AllowedPlugin.objects.values_list("plugin_name", flat=True)) in lists


def test_the_list_of_the_root_decides_what_is_installed(backend: InMemoryBackend) -> None:
    root = WorkspaceFactory()
    leaf = WorkspaceFactory(parent=WorkspaceFactory(parent=root))
    stranger = WorkspaceFactory()
    plugins = f"/workspaces/{leaf.pk}/plugins"
    put(root, "careful")
    refused = admin().post(plugins, {"source": "local://audit"})
    assert (refused.status_code, refused.json()) == (
        403,
        {"error": "plugin is not on the org's allowlist"},
    )
    assert "plugins/audit/plugin.yaml" not in backend.stored.get(leaf.pk, {}).get("/configs", {})
    assert admin().post(f"/workspaces/{stranger.pk}/plugins", {"source": "local://audit"}).status_code != 403
    put(root)
    assert admin().post(plugins, {"source": "local://audit"}).status_code != 403


@pytest.mark.parametrize("table", ["org_plugin_allowlist", "WITH RECURSIVE chain"])
def test_a_list_that_cannot_be_read_allows_nothing(backend: InMemoryBackend, table: str) -> None:
    row = WorkspaceFactory()
    with statements_fail(table):
        answer = admin().post(f"/workspaces/{row.pk}/plugins", {"source": "local://audit"})
    assert answer.status_code == 503
    assert backend.called("write_files") == []


def test_an_import_leaves_out_what_the_org_does_not_allow() -> None:
    root = WorkspaceFactory(name="Lead")
    put(root, "careful")
    node = {"name": "Child", "plugins": ["careful", "audit", "none"]}
    template = {
        "name": "Firm",
        "workspaces": [{"name": "Lead", "children": [node]}, {**node, "name": "Other"}],
    }
    _, child, other = admin().post("/org/import", {"template": template}).json()["workspaces"]
    assert child["plugins"] == ["careful"]
    assert {one["name"]: one["reason"] for one in child["plugins_skipped"]} == {
        "audit": "plugin is not on the org's allowlist",
        "none": "plugin is not on the org's allowlist",
    }
    assert other["plugins"] == ["careful", "audit"]
    below = {"name": "Firm", "workspaces": [{"name": "Deep", "plugins": ["audit"]}]}
    (deep,) = admin().post("/org/import", {"template": below, "parent_id": child["id"]}).json()["workspaces"]
    assert [one["name"] for one in deep["plugins_skipped"]] == ["audit"]
