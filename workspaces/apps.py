from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"

    def ready(self) -> None:
        from activity import metrics
        from config import jobs
        from workspaces.gauges import STATUSES, by_status
        from workspaces.services.phantoms import is_switched_on

        metrics.gauges.append((STATUSES, by_status))
        jobs.conditions[jobs.Job.PHANTOM_BUSY_SWEEP] = is_switched_on
