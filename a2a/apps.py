from uuid import UUID

from django.apps import AppConfig


class A2AConfig(AppConfig):
    name = "a2a"

    def ready(self) -> None:
        from a2a.gauges import DEPTH, STRANDED, depth, stranded
        from activity import metrics
        from workspaces import hooks

        hooks.has_free_slot.append(_drain)
        metrics.gauges += [(DEPTH, depth), (STRANDED, stranded)]


def _drain(workspace_id: UUID) -> None:
    from config.jobs import Job, enqueue

    enqueue(Job.A2A_DRAIN, workspace_id=workspace_id)
