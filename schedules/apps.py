from django.apps import AppConfig


class SchedulesConfig(AppConfig):
    name = "schedules"

    def ready(self) -> None:
        from a2a import hooks as a2a_hooks
        from schedules.services import stitching, stop_with_workspaces
        from workspaces import hooks

        a2a_hooks.settled.append(stitching.queue_item_settled)
        hooks.removed.append(stop_with_workspaces)
