from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"

    def ready(self) -> None:
        from activity import metrics
        from workspaces.gauges import STATUSES, by_status

        metrics.gauges.append((STATUSES, by_status))
