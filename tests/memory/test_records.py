"""`/workspaces/:id/v2/`: namespaces and records as the canvas shows them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from activity.models import ActivityLog
from memory.config import NOT_CONFIGURED
from memory.services import records
from memory.services.records import NewRecord
from memory_store.models import MemoryRecord
from tests.clients import admin, agent_of, anonymous
from tests.memory.conftest import Org
from tests.memory.stub_plugin import StubPlugin
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def url(row: Workspace, tail: str) -> str:
    return f"/workspaces/{row.pk}/v2/{tail}"


def committed(row: Workspace, content: str, namespace: str = "", **more: Any) -> str:
    wanted = NewRecord(content, namespace or f"workspace:{row.pk}", **more)
    return records.commit(row, wanted, surface="test")


def listed(row: Workspace, **query: Any) -> list[dict[str, Any]]:
    answer = agent_of(row.pk).get(url(row, "memories"), **query)
    assert answer.status_code == 200, answer.content
    return list(answer.json()["memories"])


def contents(row: Workspace, **query: Any) -> list[str]:
    return [one["content"] for one in listed(row, **query)]


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def test_without_a_store_every_route_says_how_to_get_one(org: Org) -> None:
    client = agent_of(org.one.pk)
    for method, tail in (("get", "namespaces"), ("get", "memories"), ("delete", "memories/x")):
        assert refusal(getattr(client, method)(url(org.one, tail))) == (503, NOT_CONFIGURED)
    assert "MEMORY_PLUGIN_URL" in NOT_CONFIGURED


def test_the_namespaces_of_a_member(org: Org, wired: None) -> None:
    answer = agent_of(org.one.pk).get(url(org.one, "namespaces")).json()
    own = {"name": f"workspace:{org.one.pk}", "kind": "workspace", "label": "Workspace (one)"}
    team = {"name": f"team:{org.lead.pk}", "kind": "team", "label": "Team (lead)"}
    whole = {"name": f"org:{org.root.pk}", "kind": "org", "label": "Org (root)"}
    assert answer == {"readable": [own, team, whole], "writable": [own, team]}


def test_records_are_shown_with_what_is_known_of_them(org: Org, wired: None) -> None:
    ends_at = timezone.now() + timedelta(days=1)
    memory_id = committed(org.one, "the cats sleep", expires_at=ends_at, pin=True)
    (one,) = listed(org.one)
    assert (one["id"], one["pin"], one["kind"], one["source"]) == (memory_id, True, "fact", "agent")
    assert one["source_workspace_id"] == str(org.one.pk)
    assert one["expires_at"].endswith("Z")
    assert "score" not in one
    (scored,) = listed(org.one, q="sleeping cat")
    assert 0 < scored["score"] <= 1


def test_a_search_narrows(org: Org, wired: None) -> None:
    committed(org.one, "a fact")
    committed(org.one, "a summary", kind="summary")
    committed(org.one, "for the team", f"team:{org.lead.pk}")
    assert contents(org.one) == ["for the team", "a summary", "a fact"]
    assert contents(org.one, namespace=f"team:{org.lead.pk}") == ["for the team"]
    assert contents(org.one, kind="summary") == ["a summary"]
    assert contents(org.two) == ["for the team"]
    assert refusal(agent_of(org.one.pk).get(url(org.one, "memories"), kind="bogus")) == (400, "invalid kind")


@pytest.mark.parametrize(
    ("limit", "count"), [("2", 2), ("500", 60), ("0", 50), ("x", 50), ("-3", 50), ("", 50)]
)
def test_a_limit_is_kept(org: Org, wired: None, limit: str, count: int) -> None:
    for number in range(60):
        committed(org.one, f"fact {number}")
    assert len(listed(org.one, limit=limit)) == count


def test_a_member_deletes_from_its_team_and_not_from_the_org(org: Org, wired: None) -> None:
    of_team = committed(org.two, "for the team", f"team:{org.lead.pk}")
    of_org = committed(org.root, "for all", f"org:{org.root.pk}")
    client = agent_of(org.one.pk)
    assert client.delete(url(org.one, f"memories/{of_team}")).json() == {"status": "deleted"}
    for memory_id in (of_team, of_org, str(uuid4()), "no-uuid", "x" * 300):
        assert refusal(client.delete(url(org.one, f"memories/{memory_id}"))) == (404, "memory not found")
    named = f"memories/{of_org}?namespace=workspace:{org.root.pk}"
    assert agent_of(org.root.pk).delete(url(org.root, named)).status_code == 404
    assert agent_of(org.root.pk).delete(url(org.root, f"memories/{of_org}")).status_code == 200
    lines = ActivityLog.objects.filter(workspace_id=org.root.pk, activity_type="memory_delete_global")
    assert lines.get().request_body["memory_id"] == of_org
    assert MemoryRecord.objects.count() == 0


def test_others_get_nothing(org: Org, wired: None) -> None:
    for client, status in ((anonymous(), 401), (agent_of(org.two.pk), 401)):
        assert client.get(url(org.one, "memories")).status_code == status
        assert client.get(url(org.one, "namespaces")).status_code == status
        assert client.delete(url(org.one, "memories/x")).status_code == status
    assert admin().get(url(org.one, "memories")).status_code == 200
    assert admin().get(f"/workspaces/{uuid4()}/v2/memories").status_code == 404


def test_a_namespace_is_made_before_the_first_record_and_again_when_it_is_gone(org: Org, wired: None) -> None:
    committed(org.one, "first")
    from memory_store import services as store

    store.delete_namespace(f"workspace:{org.one.pk}")
    committed(org.one, "second")
    assert contents(org.one) == ["second"]


def test_an_agent_that_repeats_itself_gets_the_record_it_has(org: Org, wired: None, settings: Any) -> None:
    settings.MEMORY_DEDUPE = "exact"
    assert committed(org.one, "the same") == committed(org.one, "the same")
    assert committed(org.one, "the same", kind="summary") != committed(org.one, "the same")
    assert MemoryRecord.objects.count() == 2


def test_a_record_for_the_org_and_its_line_are_there_together_or_not_at_all(
    org: Org, wired: None, monkeypatch: Any
) -> None:
    """The process dies between the two."""

    def dies(*args: Any) -> None:
        raise KeyboardInterrupt

    kept = committed(org.root, "for all", f"org:{org.root.pk}")
    with monkeypatch.context() as patch:
        patch.setattr(records.audit, "wrote_for_org", dies)
        patch.setattr(records.audit, "deleted_for_org", dies)
        with pytest.raises(KeyboardInterrupt):
            committed(org.root, "never seen", f"org:{org.root.pk}")
        with pytest.raises(KeyboardInterrupt):
            records.forget(org.root, kept)
    assert contents(org.root) == ["for all"]
    committed(org.one, "a namespace that was rolled back is made again")


# --- With a plugin of somebody else


def test_a_foreign_namespace_is_empty_and_nobody_is_asked(org: Org, stub: StubPlugin) -> None:
    assert listed(org.one, namespace=f"team:{org.other.pk}") == []
    client = agent_of(org.one.pk)
    assert client.get(url(org.one, "memories"), kind="bogus").status_code == 400
    assert stub.calls == []


def test_rows_a_plugin_should_not_have_sent_are_dropped(org: Org, stub: StubPlugin) -> None:
    committed(org.two, "the sibling's own")
    committed(org.one, "my own")
    stub.filters = False
    assert contents(org.one) == ["my own"]


def test_an_id_that_is_no_uuid_reaches_the_plugin(org: Org, stub: StubPlugin) -> None:
    agent_of(org.one.pk).delete(url(org.one, "memories/abc-1"))
    agent_of(org.one.pk).delete(url(org.one, "memories/a%2Fb"))
    assert ("DELETE", "/v1/memories/abc-1") in stub.calls
    assert ("DELETE", "/v1/memories/a%2Fb") in stub.calls


def test_a_plugin_that_fails_is_a_502_and_the_namespaces_are_there_all_the_same(
    org: Org, stub: StubPlugin
) -> None:
    client = agent_of(org.one.pk)
    stub.fail = (500, b'{"code":"internal","message":"password=canary"}')
    answer = client.get(url(org.one, "memories"))
    assert refusal(answer) == (502, "memory plugin search failed")
    assert refusal(client.delete(url(org.one, "memories/x"))) == (502, "memory plugin delete failed")
    assert client.get(url(org.one, "namespaces")).status_code == 200
    assert "canary" not in answer.content.decode()


def test_scoped_memories_do_not_depend_on_a_plugin_that_is_only_wired(org: Org, stub: StubPlugin) -> None:
    stub.fail = (500, b"")
    client = agent_of(org.one.pk)
    path = f"/workspaces/{org.one.pk}/memories"
    assert client.post(path, {"content": "x", "scope": "LOCAL"}).status_code == 201
    assert len(client.get(path).json()) == 1
    assert stub.calls == []


def test_after_the_cutover_a_plugin_that_fails_is_told_and_never_an_empty_list(
    org: Org, stub: StubPlugin, settings: Any
) -> None:
    settings.MEMORY_V2_CUTOVER = True
    client, path = agent_of(org.one.pk), f"/workspaces/{org.one.pk}/memories"
    assert client.post(path, {"content": "x", "scope": "LOCAL"}).status_code == 201
    assert [one["content"] for one in client.get(path).json()] == ["x"]
    edit = client.patch(f"{path}/x", {"content": "y"})
    assert refusal(edit) == (501, "memory edit is not supported by the configured memory plugin")
    stub.fail = (503, b"not json")
    assert refusal(client.post(path, {"content": "x", "scope": "LOCAL"})) == (502, "failed to store memory")
    assert refusal(client.get(path)) == (502, "memory plugin search failed")
    assert refusal(client.delete(f"{path}/x")) == (502, "delete failed")
    items = client.get(f"/workspaces/{org.one.pk}/session-search")
    assert (items.status_code, items.json()) == (200, [])
