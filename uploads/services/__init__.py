"""The verbs over staged files; nothing else writes their tables."""

from uploads.services.files import list_unacked
from uploads.services.forwarding import checked_path, fetch_artefact, forward_upload
from uploads.services.reading import Reader, ack_file, open_file
from uploads.services.staging import stage_files
from uploads.services.sweeping import sweep

__all__ = [
    "Reader",
    "ack_file",
    "checked_path",
    "fetch_artefact",
    "forward_upload",
    "list_unacked",
    "open_file",
    "stage_files",
    "sweep",
]
