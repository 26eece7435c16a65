from django.apps import AppConfig


class SchedulesConfig(AppConfig):
    name = "schedules"

    def ready(self) -> None:
        from a2a import hooks as a2a_hooks
        from chat_channels.services import post_to_channels, recent_context
        from schedules import hooks as of_runs
        from schedules.services import stitching, stop_with_workspaces
        from workspaces import hooks

        a2a_hooks.settled.append(stitching.queue_item_settled)
        hooks.removed.append(stop_with_workspaces)
        of_runs.recent_context.append(recent_context)
        of_runs.answered.append(post_to_channels)
