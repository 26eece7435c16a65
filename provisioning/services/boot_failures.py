"""A start that somebody outside saw fail: whoever watches the machine boot tells the server.

Source: docs/reference/panels.md, A start that failed.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction

from activity.redaction import redacted, storable
from config.errors import failing_as
from provisioning import ledger
from provisioning.backends.base import BackendError, ErrorClass
from provisioning.models import ProvisionRun
from workspaces.models import Workspace
from workspaces.services import transitions

TEXT_BYTES = 8192  # of the stored text, and of the log that is announced
ERROR_BYTES = 2048  # of the reason before it: the larger part is for the end of the log
CUT_MARK = "...(truncated)...\n"
NO_REASON = "bootstrap failed — see log_tail"
SOURCE = "bootstrap_watcher"


def report_boot_failure(
    *, workspace_id: UUID, error: str, log_tail: str, generation: int | None = None
) -> bool:
    """Fail a start in flight (of this generation), with its reason and the end of its log.

    False when none is: nothing changes.

    Credentials are taken out before anything is cut, so that no half of one is left unrecognised.
    """
    reason = _start_of(clean(error).strip() or NO_REASON, ERROR_BYTES)
    log = clean(log_tail)
    head = f"{reason}\n\n"
    stored = head + end_of(log, TEXT_BYTES - len(head.encode())) if log.strip() else reason
    shown: dict[str, Any] = {
        "error": reason,
        "log_tail": end_of(log, TEXT_BYTES, beside=True),
        "source": SOURCE,
    }
    with failing_as("db update failed"), transaction.atomic():
        rows = Workspace.objects.filter(pk=workspace_id)
        if generation is not None:
            rows = rows.filter(generation=generation)
        failed = transitions.mark_failed(rows, stored, **shown)
        for row in failed:
            runs = ProvisionRun.objects.starts().filter(workspace_id=row.pk, generation=row.generation)
            ledger.fail_run(runs, BackendError(ErrorClass.BOOT_FAILED, reason, detail=stored))
    return bool(failed)


def end_of(text: str, limit: int, *, beside: bool = False) -> str:
    """The last `limit` UTF-8 bytes, cut at a character and marked as cut; the mark counts unless `beside`."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    room = limit if beside else limit - len(CUT_MARK)
    return CUT_MARK + encoded[-room:].decode(errors="ignore")


def _start_of(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")


def clean(text: str) -> str:
    """Storable, and without credentials."""
    return redacted(storable(text))[0]
