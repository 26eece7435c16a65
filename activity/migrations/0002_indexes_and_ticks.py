"""Indexes of the delegations and the tool traces, built while others write; and the ticks of long runs."""

import django.contrib.postgres.indexes
import django.db.models.fields.json
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

_RESULT = models.UniqueConstraint(
    models.F("workspace"),
    django.db.models.fields.json.KeyTextTransform("delegation_id", "request_body"),
    models.F("activity_type"),
    condition=models.Q(("method", "delegate_result")),
    name="activity_logs_result_uniq",
)


class Migration(migrations.Migration):
    atomic = False  # an index cannot be built concurrently inside a transaction

    dependencies = [("activity", "0001_initial"), ("workspaces", "0002_agents_viewport_usage")]

    operations = [
        migrations.AddField("backgroundjob", "last_tick_at", models.DateTimeField(null=True)),
        AddIndexConcurrently(
            "activitylog",
            django.contrib.postgres.indexes.GinIndex(
                fields=["tool_trace"],
                condition=models.Q(("tool_trace__isnull", False)),
                name="activity_logs_tool_trace",
            ),
        ),
        AddIndexConcurrently(
            "activitylog",
            models.Index(
                models.F("workspace"),
                django.db.models.fields.json.KeyTextTransform("delegation_id", "request_body"),
                condition=models.Q(("method__in", ["delegate", "delegate_result"])),
                name="activity_logs_delegation",
            ),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    "CREATE UNIQUE INDEX CONCURRENTLY activity_logs_result_uniq ON activity_logs"
                    " (workspace_id, (request_body ->> 'delegation_id'), activity_type)"
                    " WHERE method = 'delegate_result'",
                    "DROP INDEX activity_logs_result_uniq",
                )
            ],
            state_operations=[migrations.AddConstraint("activitylog", _RESULT)],
        ),
    ]
