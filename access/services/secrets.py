"""Secrets of workspaces and global ones: store, read, delete, seal anew. Source: docs/reference/access.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.utils import timezone

from access import hooks
from access.ciphers import CannotUnseal, newest_version, seal, unseal
from access.models import GlobalSecret, WorkspaceSecret
from access.services.tokens import lock_workspace
from config.errors import NotFound

log = structlog.get_logger(__name__)
REENCRYPT_BATCH = 200  # rows locked at once: a save waits for at most one such transaction

# Whom a change of a global secret reaches: with compute of ours, not parked, no own secret of that name.
_READERS = """
SELECT id FROM workspaces w
WHERE status NOT IN ('removed', 'paused', 'hibernating', 'hibernated') AND runtime <> 'external'
  AND id IS DISTINCT FROM %s
  AND NOT EXISTS (SELECT 1 FROM workspace_secrets s WHERE s.workspace_id = w.id AND s.key = %s)
ORDER BY id
"""


class SecretUnreadable(Exception):
    """Stored secrets that cannot be decrypted; `scope` and `key` are the first one's,
    `failed` is all of them as `<scope>:<key>`.
    """

    def __init__(self, failed: list[tuple[str, str]]) -> None:
        super().__init__(", ".join(f"{scope} secret {key}" for scope, key in failed))
        self.scope, self.key = failed[0]
        self.failed = [f"{scope}:{key}" for scope, key in failed]


@dataclass(frozen=True)
class Change:
    """What a write to a global secret did; `readers` are the workspaces whose agents have the old one."""

    is_changed: bool
    readers: tuple[UUID, ...] = ()


# --- One workspace
# ---------------------------------------------------------------------------------------------------


def store_secrets(*, workspace_id: UUID, values: Mapping[str, str]) -> None:
    """Upsert secrets of one workspace, all or none."""
    store_secrets_of({workspace_id: values})


@transaction.atomic
def store_secrets_of(workspaces: Mapping[UUID, Mapping[str, str]]) -> None:
    """Upsert secrets of many workspaces, all or none, in one statement."""
    rows = []
    for workspace_id, values in workspaces.items():
        for key, value in values.items():
            sealed, version = seal(value, about_workspace(workspace_id, key))
            rows.append(
                WorkspaceSecret(
                    workspace_id=workspace_id,
                    key=key,
                    encrypted_value=sealed,
                    encryption_version=version,
                    updated_at=timezone.now(),
                )
            )
    WorkspaceSecret.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["workspace", "key"],
        update_fields=["encrypted_value", "encryption_version", "updated_at"],
    )


def global_secret_keys() -> set[str]:
    """The names of the global secrets that hold something."""
    return set(GlobalSecret.objects.exclude(encrypted_value=b"").values_list("key", flat=True))


@transaction.atomic
def save_secret(*, workspace_id: UUID, key: str, value: str) -> bool:
    """Upsert one secret; returns whether its value changed. An unchanged one is sealed anew all the same.

    The row lock makes the comparison true for the value that is replaced.
    """
    row = WorkspaceSecret.objects.select_for_update().filter(workspace_id=workspace_id, key=key).first()
    is_same = row is not None and _is(row, value)
    store_secrets(workspace_id=workspace_id, values={key: value})
    return not is_same


def delete_secret(*, workspace_id: UUID, key: str) -> bool:
    """Returns whether there was one."""
    deleted, _ = WorkspaceSecret.objects.filter(workspace_id=workspace_id, key=key).delete()
    return bool(deleted)


def read_secret(workspace_id: UUID, key: str) -> str | None:
    """The plain text of a workspace's own secret. Raises SecretUnreadable."""
    row = WorkspaceSecret.objects.filter(workspace_id=workspace_id, key=key).first()
    return _plain([row])[key] if row else None


@transaction.atomic
def set_workspace_secret(*, workspace_id: UUID, key: str, value: str, by_its_agent: bool) -> bool:
    """Save a secret; a changed one asks for a restart in the same transaction, unless the agent itself wrote
    it: a restart would end the turn in which it did. Raises NotFound.
    """
    lock_workspace(workspace_id)
    is_changed = save_secret(workspace_id=workspace_id, key=key, value=value)
    log.info("secret.set", workspace_id=str(workspace_id), key=key, changed=is_changed)
    _tell(workspace_id, key, is_changed and not by_its_agent)
    return is_changed


@transaction.atomic
def remove_workspace_secret(*, workspace_id: UUID, key: str, by_its_agent: bool) -> None:
    """Raises NotFound: no such workspace or secret."""
    lock_workspace(workspace_id)
    if not delete_secret(workspace_id=workspace_id, key=key):
        raise NotFound("secret not found")
    log.info("secret.deleted", workspace_id=str(workspace_id), key=key)
    _tell(workspace_id, key, not by_its_agent)


def _tell(workspace_id: UUID, key: str, restarts: bool) -> None:
    if restarts:
        for changed in hooks.secret_changed:
            changed(workspace_id, key)


# --- Global
# ---------------------------------------------------------------------------------------------------


@transaction.atomic
def save_global_secret(*, key: str, value: str, caller_id: UUID | None = None) -> Change:
    """Upsert. `caller_id`: a calling workspace, never counted among the readers."""
    row = GlobalSecret.objects.select_for_update().filter(key=key).first()
    is_changed = row is None or not _is(row, value)
    sealed, version = seal(value, about_global(key))
    GlobalSecret.objects.bulk_create(
        [
            GlobalSecret(
                key=key, encrypted_value=sealed, encryption_version=version, updated_at=timezone.now()
            )
        ],
        update_conflicts=True,
        unique_fields=["key"],
        update_fields=["encrypted_value", "encryption_version", "updated_at"],
    )
    log.info("secret.set", scope="global", key=key, changed=is_changed)
    return Change(is_changed, _readers(key, caller_id) if is_changed else ())


@transaction.atomic
def delete_global_secret(*, key: str, caller_id: UUID | None = None) -> Change:
    """Raises NotFound."""
    if not GlobalSecret.objects.filter(key=key).delete()[0]:
        raise NotFound("secret not found")
    log.info("secret.deleted", scope="global", key=key)
    return Change(True, _readers(key, caller_id))


def _readers(key: str, caller_id: UUID | None) -> tuple[UUID, ...]:
    with connection.cursor() as cursor:
        cursor.execute(_READERS, [caller_id, key])
        return tuple(row[0] for row in cursor.fetchall())


# --- All of them
# ---------------------------------------------------------------------------------------------------


def secret_environment(workspace_id: UUID) -> dict[str, str]:
    """Every secret a workspace receives: the global ones overlaid by its own.

    Raises SecretUnreadable, naming each that cannot be read: all or nothing.
    """
    shared = GlobalSecret.objects.order_by("key")
    own = WorkspaceSecret.objects.filter(workspace_id=workspace_id).order_by("key")
    return _plain([*shared, *own])


def secret_keys(workspace_id: UUID) -> list[str]:
    """The names of every secret a workspace receives, sorted; nothing is decrypted."""
    shared = GlobalSecret.objects.values_list("key", flat=True)
    own = WorkspaceSecret.objects.filter(workspace_id=workspace_id).values_list("key", flat=True)
    return sorted({*shared, *own})


def secrets_by_workspace(workspace_ids: Iterable[UUID]) -> dict[UUID, set[str]]:
    """The names of each workspace's own secrets; those without any are absent."""
    held: dict[UUID, set[str]] = {}
    rows = WorkspaceSecret.objects.filter(workspace_id__in=list(workspace_ids))
    for workspace_id, key in rows.values_list("workspace_id", "key"):
        held.setdefault(workspace_id, set()).add(key)
    return held


Row = TypeVar("Row", GlobalSecret, WorkspaceSecret)


def reencrypt_secrets() -> int:
    """Seal every secret of an older version under the newest key; returns how many. Running twice changes
    nothing. One that cannot be read stays as it is and is logged.
    """
    return _reencrypt(GlobalSecret) + _reencrypt(WorkspaceSecret)


def _reencrypt(model: type[Row]) -> int:
    done, after = 0, None
    while True:
        with transaction.atomic(durable=True):  # every batch commits: locks stay short, progress is kept
            old = model._default_manager.filter(encryption_version__lt=newest_version()).order_by("pk")
            batch = list((old.filter(pk__gt=after) if after else old).select_for_update()[:REENCRYPT_BATCH])
            for row in batch:
                try:
                    text = unseal(bytes(row.encrypted_value), row.encryption_version, _about(row))
                except CannotUnseal as error:
                    log.error("secret.unreadable", scope=_scope(row), key=row.key, cause=str(error))
                    continue
                row.encrypted_value, row.encryption_version = seal(text, _about(row))
                row.save(update_fields=["encrypted_value", "encryption_version"])
                done += 1
        if len(batch) < REENCRYPT_BATCH:
            return done
        after = batch[-1].pk


def about_workspace(workspace_id: UUID, key: str) -> str:
    """What a sealed value is bound to: copied into another row, it cannot be read."""
    return f"ws:{workspace_id}:{key}"


def about_global(key: str) -> str:
    return f"global:{key}"


def _about(row: GlobalSecret | WorkspaceSecret) -> str:
    if isinstance(row, GlobalSecret):
        return about_global(row.key)
    return about_workspace(row.workspace_id, row.key)


def _scope(row: GlobalSecret | WorkspaceSecret) -> str:
    return "global" if isinstance(row, GlobalSecret) else "workspace"


def _is(row: GlobalSecret | WorkspaceSecret, value: str) -> bool:
    try:
        return _plain([row])[row.key] == value
    except SecretUnreadable:
        return False


def _plain(rows: list[GlobalSecret | WorkspaceSecret]) -> dict[str, str]:
    """The texts by key, a later row over an earlier one. Raises SecretUnreadable."""
    texts, failed = {}, []
    for row in rows:
        try:
            texts[row.key] = unseal(bytes(row.encrypted_value), row.encryption_version, _about(row))
        except CannotUnseal as error:
            log.error("secret.unreadable", scope=_scope(row), key=row.key, cause=str(error))
            failed.append((_scope(row), row.key))
    if failed:
        raise SecretUnreadable(failed)
    return texts
