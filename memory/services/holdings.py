"""What each workspace remembers, as names that can be compared: a removal must not lose what nobody else has.

Source: docs/reference/memory.md, Holdings.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now

from memory.models import AgentMemory
from memory.services.key_values import keys_by_workspace
from memory_store.models import MemoryRecord

SHOWN = 12  # of a hash, in names that people read


def holdings(workspace_ids: Iterable[UUID]) -> dict[UUID, set[str]]:
    """Keys, scoped memories and the live records of its own namespace in this database, for each workspace
    that has any. The same text has the same name whoever remembers it; no name holds a text. Three
    statements.

    Records of a plugin with a database of its own are not looked at.
    """
    homes = {f"workspace:{one}": one for one in workspace_ids}
    held = keys_by_workspace(homes.values())
    scoped = AgentMemory.objects.filter(workspace_id__in=homes.values())
    for owner, scope, digest in scoped.values_list("workspace_id", "scope", "content_sha256"):
        held.setdefault(owner, set()).add(f"{scope} {digest[:SHOWN]}")
    records = MemoryRecord.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=Now()), namespace_id__in=homes
    )
    for home, kind, digest in records.values_list("namespace_id", "kind", "content_sha256"):
        held.setdefault(homes[home], set()).add(f"{kind} {digest[:SHOWN]}")
    return held
