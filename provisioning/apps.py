from django.apps import AppConfig


class ProvisioningConfig(AppConfig):
    name = "provisioning"

    def ready(self) -> None:
        from access import hooks as access_hooks
        from provisioning import checks  # noqa: F401
        from provisioning.ledger import finish_run
        from provisioning.services import restart_for_secret
        from workspaces import hooks

        hooks.came_online.append(finish_run)
        access_hooks.secret_changed.append(restart_for_secret)
