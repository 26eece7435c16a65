"""Lists and single reads, as agents see them."""

from __future__ import annotations

from typing import Any

import pytest

from delegations.models import Delegation, Status
from delegations.services import Change, transition
from tests.clients import admin, agent_of
from tests.delegations.factories import delegated, pair

pytestmark = pytest.mark.django_db


def listed(workspace_id: Any, **params: Any) -> list[dict[str, Any]]:
    answer = agent_of(workspace_id).get(f"/workspaces/{workspace_id}/delegations", **params)
    assert answer.status_code == 200, answer.content
    return list(answer.json())


def test_an_entry_has_what_clients_read():
    row = delegated()
    (entry,) = listed(row.caller_id)
    assert entry["id"] == entry["delegation_id"] == row.pk
    assert (entry["type"], entry["status"], entry["ledger_status"]) == ("delegation", "pending", "queued")
    assert (entry["source_id"], entry["target_id"]) == (str(row.caller_id), str(row.callee_id))
    assert entry["direction"] == "sent"
    assert entry["summary"].startswith("Delegating to workspace ")
    assert {"created_at", "updated_at", "deadline", "last_heartbeat"} <= set(entry)
    assert not {"error", "error_detail", "response_preview"} & set(entry)


def test_how_it_ended_is_in_the_entry():
    done, failed = delegated(), delegated()
    transition(done.pk, Change(Status.COMPLETED, text="x" * 5000))
    transition(failed.pk, Change(Status.FAILED, error="no beans"))
    (entry,) = listed(done.caller_id)
    assert (len(entry["response_preview"]), entry["response_truncated"]) == (4096, True)
    assert entry["summary"] == f"Delegation completed ({'x' * 77}...)"
    (entry,) = listed(failed.caller_id)
    assert entry["error"] == entry["error_detail"] == "no beans"
    assert entry["summary"] == "Delegation failed (no beans)"


def test_one_entry_per_delegation_newest_first_sent_only_and_fifty():
    caller, callee = pair()
    rows = [delegated(caller, callee) for _ in range(55)]
    received = delegated(callee, caller)
    assert [one["id"] for one in listed(caller.pk)] == [row.pk for row in reversed(rows)][:50]
    assert [one["id"] for one in listed(caller.pk, direction="received")] == [received.pk]
    assert len(listed(caller.pk, direction="all", limit=200)) == 56
    assert len(listed(caller.pk, limit=3)) == 3
    (entry,) = listed(caller.pk, direction="received")
    assert (entry["direction"], entry["source_id"]) == ("received", str(callee.pk))


def test_nothing_is_an_empty_list():
    assert listed(pair()[0].pk) == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"status": "queued"}, "pending"),
        ({"status": "dispatched", "delivery": "direct"}, "dispatched"),
        ({"status": "dispatched"}, "dispatched"),
        ({"status": "dispatched", "delivery": "queue"}, "queued"),
        ({"status": "dispatched", "delivery": "poll"}, "queued"),
        ({"status": "in_progress"}, "in_progress"),
        ({"status": "stuck", "delivery": "queue"}, "stuck"),
    ],
)
def test_the_words_of_lists(fields: dict[str, str], word: str):
    row = delegated(**fields)
    assert [one["status"] for one in listed(row.caller_id)] == [word]
    assert [one["id"] for one in listed(row.caller_id, status=word)] == [row.pk]
    others = {"pending", "dispatched", "queued", "in_progress", "stuck", "completed", "failed"} - {word}
    assert all(listed(row.caller_id, status=other) == [] for other in others)


def test_a_filter_that_is_none_is_refused():
    row = delegated()
    path = f"/workspaces/{row.caller_id}/delegations"
    assert admin().get(path, status="garbage").status_code == 400
    assert admin().get(path, direction="garbage").status_code == 400
    assert listed(row.caller_id, delegation_id=row.pk)[0]["id"] == row.pk
    assert listed(row.caller_id, delegation_id="other") == []


def test_caller_and_callee_read_the_whole_of_one():
    row = delegated(text="t" * 5000)
    transition(row.pk, Change(Status.COMPLETED, text="x" * 5000))
    for one in (row.caller_id, row.callee_id):
        body = agent_of(one).get(f"/workspaces/{one}/delegations/{row.pk}").json()
        assert (body["task"], body["result"]) == ("t" * 5000, "x" * 5000)
    (stranger, _) = pair()
    answer = agent_of(stranger.pk).get(f"/workspaces/{stranger.pk}/delegations/{row.pk}")
    assert (answer.status_code, answer.json()) == (404, {"error": "delegation not found"})


def test_a_list_of_fifty_costs_what_a_list_of_three_costs(django_assert_num_queries):
    caller, callee = pair()
    for _ in range(3):
        delegated(caller, callee)
    path, api = f"/workspaces/{caller.pk}/delegations", admin()
    with django_assert_num_queries(2):  # the workspace and the rows
        api.get(path)
    for _ in range(47):
        delegated(caller, callee)
    with django_assert_num_queries(2):
        assert len(api.get(path).json()) == 50


def test_the_feed_reads_delegations_without_their_copies():
    row = delegated()
    transition(row.pk, Change(Status.COMPLETED, text="done"))
    api = agent_of(row.caller_id)
    path = f"/workspaces/{row.caller_id}/activity"
    methods = [one["method"] for one in api.get(path, source="agent").json()]
    assert methods == ["delegate_result", "delegate"]
    (copy,) = api.get(path, type="a2a_receive").json()
    assert copy["data"]["source_id"] == str(row.callee_id)
    assert copy["data"]["text"].endswith("completed:\ndone")


def test_the_default_view_of_operators_has_what_is_stuck():
    rows = {status: delegated(status=status) for status in ("queued", "dispatched", "in_progress", "stuck")}
    done = delegated()
    transition(done.pk, Change(Status.COMPLETED, text="done"))
    body = admin().get("/admin/delegations").json()
    assert {one["delegation_id"] for one in body["delegations"]} == {row.pk for row in rows.values()}
    assert (body["count"], body["status"], body["limit"]) == (4, "in_flight", 100)
    (stuck,) = admin().get("/admin/delegations", status="stuck").json()["delegations"]
    assert set(stuck) == {
        "delegation_id", "caller_id", "callee_id", "task_preview", "status", "deadline", "retry_count",
        "created_at", "updated_at",
    }  # fmt: skip
    (ended,) = admin().get("/admin/delegations", status="completed").json()["delegations"]
    assert ended["result_preview"] == "done"
    assert admin().get("/admin/delegations", limit=2, status="in_flight").json()["count"] == 2


def test_the_statistics_have_six_keys_on_an_empty_table():
    zeros = dict.fromkeys(["queued", "dispatched", "in_progress", "completed", "failed", "stuck"], 0)
    assert admin().get("/admin/delegations/stats").json() == zeros
    delegated()
    assert admin().get("/admin/delegations/stats").json() == {**zeros, "queued": 1}


def test_operators_are_told_what_they_may_ask():
    answer = admin().get("/admin/delegations", status="garbage")
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "error": "unknown status filter",
            "allowed": ["in_flight", "stuck", "failed", "completed"],
            "requested_status": "garbage",
        },
    )
    for given in ("0", "-5", "1001", "x", ""):
        answer = admin().get("/admin/delegations", limit=given)
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "limit must be 1..1000", "requested": given},
        )
    assert admin().get("/admin/delegations", limit="25").json()["limit"] == 25
    agent = agent_of(pair()[0].pk)
    assert agent.get("/admin/delegations").status_code == 401
    assert agent.get("/admin/delegations/stats").status_code == 401


def test_an_operator_ends_one_and_its_delegator_is_told_once():
    row = delegated(status="stuck")
    path = f"/admin/delegations/{row.pk}/resolve"
    answer = admin().post(path, {"action": "fail", "reason": "the agent is gone"})
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.json()["error_detail"] == "resolved by operator: the agent is gone"
    again = admin().post(path, {"action": "fail"})
    assert (again.status_code, again.json()) == (
        409,
        {"error": "delegation is terminal", "status": "failed"},
    )
    assert admin().post("/admin/delegations/nobody/resolve", {"action": "fail"}).status_code == 404
    assert admin().post(path, {"action": "explode"}).status_code == 400
    assert admin().post(path, {"action": "fail", "reason": "x" * 501}).status_code == 400


def test_the_gauge_shows_every_status_in_flight():
    delegated(status="stuck")
    text = admin().get("/metrics").content.decode()
    assert 'molecule_delegations_in_flight{status="stuck"} 1' in text
    assert 'molecule_delegations_in_flight{status="queued"} 0' in text
    assert Delegation.objects.count() == 1
