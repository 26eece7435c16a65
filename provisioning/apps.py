from django.apps import AppConfig


class ProvisioningConfig(AppConfig):
    name = "provisioning"

    def ready(self) -> None:
        from access import hooks as access_hooks
        from activity import metrics
        from config import jobs
        from provisioning import checks, dispatch  # noqa: F401
        from provisioning.duties import CONDITIONS
        from provisioning.gauges import GAUGES
        from provisioning.ledger import finish_run
        from provisioning.services import consume_boot_bundle, restart_for_secret
        from workspaces import defaults, hooks

        jobs.conditions.update(CONDITIONS)
        metrics.gauges.extend(GAUGES)
        defaults.instances_wired = dispatch.rents_machines
        hooks.came_online += [finish_run, consume_boot_bundle]
        access_hooks.secret_changed.append(restart_for_secret)
