from django.apps import AppConfig


class MemoryStoreConfig(AppConfig):
    name = "memory_store"
    verbose_name = "Memory store"
