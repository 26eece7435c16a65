from django.apps import AppConfig


class TemplatesConfig(AppConfig):
    name = "templates"

    def ready(self) -> None:
        from templates.listing import declared_timeouts
        from workspaces import hooks

        hooks.provision_timeouts.append(declared_timeouts)
