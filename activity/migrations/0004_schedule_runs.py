"""The runs of one schedule, newest first; built while others write."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models.fields.json import KeyTextTransform


class Migration(migrations.Migration):
    atomic = False  # an index cannot be built concurrently inside a transaction

    dependencies = [("activity", "0003_pending_messages"), ("workspaces", "0003_idle_and_busy")]

    operations = [
        AddIndexConcurrently(
            "activitylog",
            models.Index(
                models.F("workspace"),
                KeyTextTransform("schedule_id", "request_body"),
                models.OrderBy(models.F("created_at"), descending=True),
                models.OrderBy(models.F("seq"), descending=True),
                condition=models.Q(("activity_type", "cron_run")),
                name="activity_logs_schedule",
            ),
        ),
    ]
