"""System checks of the settings and limits of uploads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections

from uploads.limits import MAX_FILE_BYTES, MAX_REQUEST_BYTES
from uploads.models import SIZE_CHECK

BACKENDS = ("postgres", "s3", "off")


@register
def backend_is_usable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    chosen = settings.PENDING_UPLOADS_BACKEND
    if chosen not in BACKENDS:
        hint = f"Use one of {', '.join(BACKENDS)}."
        return [Error(f"PENDING_UPLOADS_BACKEND={chosen!r} is no storage.", hint=hint, id="uploads.E001")]
    if chosen == "s3" and not settings.PENDING_UPLOADS_S3_BUCKET:
        hint = "Name the bucket, or use PENDING_UPLOADS_BACKEND=postgres."
        return [Error("PENDING_UPLOADS_S3_BUCKET is empty.", hint=hint, id="uploads.E002")]
    return []


@register
def a_request_holds_more_than_a_file(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if MAX_REQUEST_BYTES > MAX_FILE_BYTES:
        return []
    text = "The limit of a request must be above the limit of a file, which could never be reached."
    return [Error(text, hint="Raise MAX_REQUEST_BYTES in uploads/limits.py.", id="uploads.E003")]


@register(Tags.database)
def the_database_has_the_same_limit(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Asked while the migration that changes the CHECK has not run, it would keep it from running: a higher
    limit in the code alone is then the next start's to find.
    """
    found: list[CheckMessage] = []
    for alias in databases or ():
        bound = _checked_bound(alias)
        if bound is not None and bound != MAX_FILE_BYTES:
            text = f"{SIZE_CHECK} allows {bound} bytes and uploads/limits.py {MAX_FILE_BYTES}."
            found.append(Error(text, hint="Migrate the CHECK with the constant.", id="uploads.E004"))
    return found


def _checked_bound(alias: str) -> int | None:
    """The upper bound of the CHECK; None without the table, or while a migration of it waits."""
    from django.db.migrations.executor import MigrationExecutor

    connection = connections[alias]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", [SIZE_CHECK])
        row = cursor.fetchone()
    if row is None:
        return None
    executor = MigrationExecutor(connection)
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "uploads"]
    if executor.migration_plan(targets):
        return None
    (bound,) = re.findall(r"<= '?(\d+)", row[0])
    return int(bound)
