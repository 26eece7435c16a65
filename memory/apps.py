from django.apps import AppConfig


class MemoryConfig(AppConfig):
    name = "memory"

    def ready(self) -> None:
        from django.conf import settings

        from config.jobs import Job, conditions

        conditions[Job.MEMORY_SWEEPER] = lambda: bool(settings.MEMORY_SWEEP_INTERVAL_S)
