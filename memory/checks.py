"""What must hold before the server starts with vectors that are required."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from config.embedding import REQUIRED


@register(Tags.database)
def vectors_can_be_had(app_configs: Any, databases: Any = None, **kwargs: Any) -> list[CheckMessage]:
    if not databases or settings.MEMORY_EMBEDDING.mode != REQUIRED:
        return []
    from memory_store.vectors import why_not

    if settings.MEMORY_EMBEDDING.provider == "none":
        reason = "MEMORY_VECTOR=required, but MEMORY_EMBEDDING_PROVIDER is not set"
    else:
        reason = why_not()
    hint = "Install pgvector for this PostgreSQL, or set MEMORY_VECTOR=auto or off."
    return [Error(f"{reason}.", hint=hint, id="memory.E001")] if reason else []
