"""What is asked again and again is found through an index, in tables that have seen much."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from chat_channels import manager
from chat_channels.models import ChannelMessage
from chat_channels.services import recent_context, sweep
from tests.workspaces.factories import WorkspaceFactory

pytestmark = pytest.mark.django_db
LARGE = {"workspaces", "workspace_channels", "channel_messages"}
SEEN_MUCH = """
INSERT INTO workspaces (id, name, tier, status, runtime, last_error_rate, active_tasks, max_concurrent_tasks,
    uptime_seconds, monthly_spend, generation, cleanup_pending, delivery_mode, delivery_mode_explicit,
    workspace_access, url_source)
SELECT gen_random_uuid(), 'w' || n, 3, 'online', 'langgraph', 0, 0, 1, 0, 0, 1, false, 'push', false, 'none',
    'agent' FROM generate_series(1, 10000) n;
INSERT INTO workspace_channels (id, workspace_id, channel_type, channel_config, enabled, allowed_users)
SELECT gen_random_uuid(), id, 'telegram', '{}', name LIKE '%0', '[]' FROM workspaces;
INSERT INTO channel_messages (id, channel_id, direction, status, chat_id, thread, username, text)
SELECT gen_random_uuid(), id, 'inbound', 'done', '', '', '', 'x' FROM workspace_channels,
    generate_series(1, 10);
ANALYZE workspaces, workspace_channels, channel_messages
"""


@pytest.fixture
def _seen_much() -> None:
    with connection.cursor() as cursor:
        for statement in SEEN_MUCH.split(";\n"):
            cursor.execute(statement)


def whole_reads(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in LARGE:
        yield plan["Relation Name"]
    for child in plan.get("Plans", []):
        yield from whole_reads(child)


def reads_whole(run: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        run()
    found: list[str] = []
    with connection.cursor() as cursor:
        for query in captured.captured_queries:
            cursor.execute("EXPLAIN (FORMAT JSON) " + query["sql"].replace("%", "%%"))
            (explained,) = cursor.fetchone()
            plan = json.loads(explained) if isinstance(explained, str) else explained
            found += whole_reads(plan[0]["Plan"])
    return found


@pytest.mark.usefixtures("_seen_much")
def test_nothing_is_read_from_end_to_end():
    row = WorkspaceFactory()
    assert reads_whole(lambda: sweep(timezone.now())) == []
    assert reads_whole(lambda: recent_context(row.pk)) == []
    assert "workspace_channels" not in reads_whole(lambda: manager.listeners("slack"))


@pytest.mark.usefixtures("_seen_much")
def test_the_check_fires():
    assert reads_whole(lambda: list(ChannelMessage.objects.filter(text="y"))) == ["channel_messages"]
