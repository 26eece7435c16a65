"""The index of the restart contexts that are still to be told, built while others write."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # an index cannot be built concurrently inside a transaction

    dependencies = [("provisioning", "0002_boot_bundles_and_pins")]

    operations = [
        AddIndexConcurrently(
            "workspacelifecycle",
            models.Index(
                models.F("restart_context_expires_at"),
                condition=models.Q(("restart_context__isnull", False)),
                name="workspace_lifecycle_context",
            ),
        )
    ]
