from django.apps import AppConfig


class ProvisioningConfig(AppConfig):
    name = "provisioning"

    def ready(self) -> None:
        from provisioning import checks  # noqa: F401
        from provisioning.ledger import finish_run
        from workspaces import hooks

        hooks.came_online.append(finish_run)
