from django.apps import AppConfig


class OrgImportConfig(AppConfig):
    name = "orgimport"
