from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.db.models.signals import post_migrate
from django.http import HttpRequest


class ConsoleConfig(AppConfig):
    name = "console"

    def ready(self) -> None:
        from config.admin import restrictions

        admin.site.index_title = "Overview"
        admin.site.index_template = "console/home.html"
        # After the last room's permissions exist: a migration would come before those of later rooms.
        restrictions.append(_scope)
        post_migrate.connect(_complete_roles, sender=self)


def _scope(request: HttpRequest) -> Any:
    from console.services.scopes import workspaces_of

    return workspaces_of(request)


def _complete_roles(**_: Any) -> None:
    from console.services.roles import complete_roles

    complete_roles()
