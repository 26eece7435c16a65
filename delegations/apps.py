from django.apps import AppConfig


class DelegationsConfig(AppConfig):
    name = "delegations"

    def ready(self) -> None:
        from activity import metrics
        from delegations import checks  # noqa: F401
        from delegations.gauges import IN_FLIGHT_FAMILY, in_flight
        from delegations.services import close_with_workspaces
        from workspaces import hooks

        hooks.removed.append(close_with_workspaces)
        metrics.gauges.append((IN_FLIGHT_FAMILY, in_flight))
