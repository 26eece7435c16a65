"""Memory through the tools of the MCP bridge."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from activity.models import ActivityLog
from memory.config import NOT_CONFIGURED
from memory.models import AgentMemory
from memory.tools import TOOLS
from memory_store.models import MemoryRecord
from tests.clients import agent_of
from tests.delegations.test_mcp import rpc, use
from tests.memory.conftest import Org
from tests.memory.stub_plugin import StubPlugin
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def told(answer: Any) -> str:
    """The text of an error; fails for anything else."""
    assert isinstance(answer, dict), answer
    assert answer["code"] == -32000
    return str(answer["message"])


def types_of(row: Workspace) -> list[str]:
    return list(
        ActivityLog.objects.filter(workspace_id=row.pk)
        .order_by("seq")
        .values_list("activity_type", flat=True)
    )


def test_the_tools_are_listed_whatever_is_switched_on(org: Org) -> None:
    names = [
        one["name"] for one in rpc(agent_of(org.one.pk), org.one, "tools/list").json()["result"]["tools"]
    ]
    assert set(TOOLS) <= set(names)


def test_what_is_remembered_is_recalled(org: Org, mode: str) -> None:
    stored = json.loads(use(org.one, "commit_memory", content="the harbour is closed"))
    assert (set(stored), stored["scope"]) == ({"id", "scope"}, "LOCAL")
    use(org.two, "commit_memory", content="the quay is open", scope="team")
    (one,) = json.loads(use(org.one, "recall_memory", query="harbour"))
    assert one == {
        "id": stored["id"],
        "content": "the harbour is closed",
        "scope": "LOCAL",
        "created_at": one["created_at"],
    }
    both = json.loads(use(org.one, "recall_memory", query=""))
    assert [(each["content"], each["scope"]) for each in both] == [
        ("the quay is open", "TEAM"),
        ("the harbour is closed", "LOCAL"),
    ]
    assert use(org.cousin, "recall_memory", query="quay") == "No memories found."
    assert "memory_write" in types_of(org.one)


def test_the_org_is_recalled_from_records_only(org: Org, mode: str) -> None:
    agent_of(org.root.pk).post(
        f"/workspaces/{org.root.pk}/memories", {"content": "for all", "scope": "GLOBAL"}
    )
    answer = use(org.one, "recall_memory", query="")
    if mode == "off":
        assert answer == "No memories found."
    else:
        (one,) = json.loads(answer)
        assert one["content"] == f"[MEMORY id={one['id']} scope=ORG ns=org:{org.root.pk}]: for all"
        assert one["scope"] == "GLOBAL"


def test_the_org_is_not_written_by_these_tools(org: Org, mode: str) -> None:
    refused = "GLOBAL scope is not permitted via the MCP bridge \u2014 use LOCAL or TEAM"
    assert told(use(org.root, "commit_memory", content="x", scope="GLOBAL")) == refused
    recall = told(use(org.root, "recall_memory", query="x", scope="GLOBAL"))
    assert recall.endswith("use LOCAL, TEAM, or empty")
    assert told(use(org.root, "commit_memory", content="x", scope="MINE")) == "scope must be LOCAL or TEAM"
    assert told(use(org.root, "commit_memory", content="x", scope=[])) == "scope must be LOCAL or TEAM"
    assert told(use(org.root, "commit_memory", content="")) == "content is required"
    assert told(use(org.root, "commit_memory", content="x" * 100_001)) == "content must be <= 100000 bytes"
    assert (AgentMemory.objects.count(), MemoryRecord.objects.count()) == (0, 0)


def test_without_a_store_the_tools_of_records_say_how_to_get_one(org: Org) -> None:
    for name, given in (
        ("commit_memory_v2", {"content": "x"}),
        ("commit_summary", {"content": "x"}),
        ("search_memory", {}),
        ("list_readable_namespaces", {}),
        ("list_writable_namespaces", {}),
        ("forget_memory", {"memory_id": "x"}),
    ):
        assert told(use(org.one, name, **given)) == NOT_CONFIGURED


def test_records_are_written_where_one_may(org: Org, wired: None) -> None:
    own = json.loads(use(org.one, "commit_memory_v2", content="mine"))
    assert own["namespace"] == f"workspace:{org.one.pk}"
    for name in (f"team:{org.other.pk}", f"org:{org.root.pk}", f"workspace:{org.two.pk}", "nonsense"):
        refused = told(use(org.one, "commit_memory_v2", content="x", namespace=name))
        assert refused == f"workspace {org.one.pk} cannot write to namespace {name}"
    use(org.root, "commit_memory_v2", content="[MEMORY for all", namespace=f"org:{org.root.pk}")
    assert "memory_write_global" in types_of(org.root)
    assert MemoryRecord.objects.get(namespace=f"org:{org.root.pk}").content == "[_MEMORY for all"


def test_a_namespace_is_a_text_or_nothing(org: Org, wired: None) -> None:
    for wrong in (1, True, [], {}):
        refused = told(use(org.one, "commit_memory_v2", content="x", namespace=wrong))
        assert refused == "namespace must be a text"
    assert MemoryRecord.objects.count() == 0


def test_a_move_between_list_and_write_is_seen(org: Org, wired: None) -> None:
    listed = json.loads(use(org.one, "list_writable_namespaces"))
    assert listed[1]["name"] == f"team:{org.lead.pk}"
    Workspace.objects.filter(pk=org.one.pk).update(parent=org.other)
    assert "cannot write" in told(use(org.one, "commit_memory_v2", content="x", namespace=listed[1]["name"]))


def test_namespaces_are_listed_with_their_names(org: Org, wired: None) -> None:
    listed = json.loads(use(org.one, "list_readable_namespaces"))
    assert [(one["kind"], one["writable"], one["display_name"]) for one in listed] == [
        ("workspace", True, "one"),
        ("team", True, "lead"),
        ("org", False, "root"),
    ]
    assert all(one["description"] for one in listed)


@pytest.mark.parametrize("tool", ["commit_memory_v2", "commit_summary"])
def test_an_end_must_be_a_moment_to_come(org: Org, stub: StubPlugin, tool: str) -> None:
    for given, text in (
        ("tomorrow", "must be RFC3339"),
        ("2030-01-01T00:00:00", "must be RFC3339"),
        (7, "must be RFC3339"),
        ("2020-01-01T00:00:00Z", "must be in the future"),
    ):
        assert told(use(org.one, tool, content="x", expires_at=given)) == f"invalid expires_at: {text}"
    assert stub.calls == []


def test_a_summary_is_kept_for_thirty_days(org: Org, wired: None) -> None:
    use(org.one, "commit_summary", content="we met")
    (one,) = json.loads(use(org.one, "search_memory", kinds=["summary"]))["memories"]
    ends_at = datetime.fromisoformat(one["expires_at"])
    assert abs(ends_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert "memory_summary_write" in types_of(org.one)


def test_a_search_shows_whose_word_is_for_the_org(org: Org, wired: None) -> None:
    use(org.root, "commit_memory_v2", content="for all", namespace=f"org:{org.root.pk}")
    use(org.two, "commit_memory_v2", content="for the team", namespace=f"team:{org.lead.pk}")
    found = json.loads(use(org.one, "search_memory", limit=1000))["memories"]
    assert [one["content"].rpartition("]: ")[2] for one in found] == ["for the team", "for all"]
    assert found[0]["content"] == "for the team"
    assert found[1]["content"].startswith(f"[MEMORY id={found[1]['id']} scope=ORG ns=org:{org.root.pk}]: ")
    assert use(org.cousin, "search_memory", namespaces=[f"team:{org.lead.pk}"]) == '{"memories":[]}'
    assert told(use(org.one, "search_memory", kinds=["bogus"])) == "invalid kind"


def test_forgetting_is_once_and_where_one_may(org: Org, wired: None) -> None:
    memory_id = json.loads(use(org.one, "commit_memory_v2", content="mine"))["id"]
    name = f"workspace:{org.one.pk}"
    refused = told(use(org.two, "forget_memory", memory_id=memory_id, namespace=name))
    assert refused == f"workspace {org.two.pk} cannot forget memory in namespace {name}"
    assert told(use(org.two, "forget_memory", memory_id=memory_id)) == "memory not found"
    assert use(org.one, "forget_memory", memory_id=memory_id) == '{"forgotten":true}'
    assert told(use(org.one, "forget_memory", memory_id=memory_id)) == "memory not found"
    assert told(use(org.one, "forget_memory")) == "memory_id is required"
    assert use(org.one, "search_memory") == '{"memories":[]}'
    assert "memory_delete" in types_of(org.one)


def test_what_a_store_says_of_itself_reaches_no_agent(org: Org, stub: StubPlugin) -> None:
    stub.fail = (500, b'{"code":"internal","message":"password=canary"}')
    for name, given in (
        ("commit_memory_v2", {"content": "x"}),
        ("search_memory", {}),
        ("forget_memory", {"memory_id": "x"}),
    ):
        assert told(use(org.one, name, **given)) == "memory temporarily unavailable"
