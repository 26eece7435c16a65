"""The verbs of the org import."""

from orgimport.services.imports import Import, Mode, Outcome, import_org, planned

__all__ = ["Import", "Mode", "Outcome", "import_org", "planned"]
