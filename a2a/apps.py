from uuid import UUID

from django.apps import AppConfig


class A2AConfig(AppConfig):
    name = "a2a"

    def ready(self) -> None:
        from a2a.gauges import DEPTH, STRANDED, depth, stranded
        from a2a.services.queue import has_waiting
        from activity import metrics
        from provisioning import hooks as provisioning_hooks
        from workspaces import hooks

        hooks.has_free_slot.append(_drain)
        provisioning_hooks.keeps_awake.append(has_waiting)
        metrics.gauges += [(DEPTH, depth), (STRANDED, stranded)]


def _drain(workspace_id: UUID) -> None:
    from config.jobs import Job, enqueue

    enqueue(Job.A2A_DRAIN, workspace_id=workspace_id)
