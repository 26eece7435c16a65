"""The verbs of the org import."""

from orgimport.services.imports import Foreseen, Import, Mode, Outcome, import_org, planned

__all__ = ["Foreseen", "Import", "Mode", "Outcome", "import_org", "planned"]
