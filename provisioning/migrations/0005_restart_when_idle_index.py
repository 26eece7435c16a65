from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):

    atomic = False  # indexes of a table in use are built beside its traffic

    dependencies = [
        ('provisioning', '0004_restart_when_idle'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='workspacelifecycle',
            index=models.Index(models.F('refresh_asked_at'), condition=models.Q(('refresh_asked_at__isnull', False)), name='workspace_lifecycle_refresh'),
        ),
    ]
