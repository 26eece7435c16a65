from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):

    atomic = False  # indexes of a table in use are built beside its traffic

    dependencies = [
        ('provisioning', '0005_restart_when_idle_index'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='provisionrun',
            index=models.Index(models.F('workspace_id'), models.F('generation'), condition=models.Q(('state', 'started')), name='provision_runs_booting'),
        ),
    ]
