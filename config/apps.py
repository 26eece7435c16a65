"""The foundation as an app: its system checks and the Celery application that `enqueue` sends through."""

from django.apps import AppConfig


class ConfigConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        from config import celery, checks  # noqa: F401
