from django.apps import AppConfig


class DelegationsConfig(AppConfig):
    name = "delegations"

    def ready(self) -> None:
        from a2a import hooks as a2a_hooks
        from activity import metrics
        from delegations import checks  # noqa: F401
        from delegations.gauges import IN_FLIGHT_FAMILY, in_flight
        from delegations.services import close_with_workspaces, stitching
        from workspaces import hooks

        a2a_hooks.settled.append(stitching.queue_item_settled)
        a2a_hooks.is_wanted.append(stitching.is_wanted)
        a2a_hooks.said.append(stitching.said)
        hooks.removed.append(close_with_workspaces)
        metrics.gauges.append((IN_FLIGHT_FAMILY, in_flight))
