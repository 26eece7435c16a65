"""What a machine fetches from us when it boots, so that its user-data can be short and hold no secret.

One bundle per generation, sealed, for thirty minutes: made before the machine is, emptied by the agent's
first call. The emptied row stays until a sweep has told the backend. Source: docs/reference/ec2.md, Boot.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from access.ciphers import CannotUnseal, seal_text, unseal_text
from access.services.tokens import new_secret, token_hash
from activity.redaction import redacted, storable
from config.errors import Conflict, Unauthorized
from provisioning import ledger
from provisioning.backends.base import StartSpec
from provisioning.containers import container_settings
from provisioning.models import BootBundle
from provisioning.progress import CRASHED
from provisioning.services.boot_failures import report_boot_failure
from workspaces.models import PARKED, Workspace

log = structlog.get_logger(__name__)

TTL = timedelta(minutes=30)
CONSUMED = ""  # what is left of a bundle after the agent's first call
MESSAGE_CHARS = 500


def boot_token(spec: StartSpec) -> str:
    """The bearer of the bundle of `spec`, which is complete but for it.

    A start that is tried again gets the bundle of its first try: the provider compares the two requests.
    """
    with transaction.atomic():
        stored = BootBundle.objects.select_for_update().filter(
            workspace_id=spec.workspace_id, generation=spec.generation
        ).first()  # fmt: skip
        if stored and stored.sealed == CONSUMED:
            return new_secret()  # its agent has called: the machine is there, and fetches nothing any more
        if stored and (token := _token_in(stored)):
            BootBundle.objects.filter(pk=stored.pk).update(expires_at=Now() + TTL)
            return token
        return _make(spec)


def opened(token: str) -> BootBundle:
    """The bundle of a machine's bearer.

    Raises Unauthorized: unknown, expired or consumed. Raises Conflict: the workspace has moved on.
    """
    stored = BootBundle.objects.filter(token_hash=token_hash(token), expires_at__gt=Now()).first()
    if stored is None:
        raise Unauthorized("invalid boot token")
    rows = Workspace.objects.at(stored.workspace_id, stored.generation)
    if not rows.exclude(status__in=PARKED).exists():
        raise Conflict("superseded by a newer start")
    return stored


def boot_config(bundle: BootBundle) -> Mapping[str, Any]:
    """What the machine is to run. Raises Unauthorized when it was consumed meanwhile or cannot be read."""
    try:
        content: dict[str, Any] = json.loads(unseal_text(bundle.sealed, _about(bundle)))
    except CannotUnseal as error:
        log.warning("boot_bundle.unreadable", workspace_id=str(bundle.workspace_id), error=str(error))
        raise Unauthorized("invalid boot token") from None
    del content["token"]
    log.info("boot_bundle.fetched", workspace_id=str(bundle.workspace_id), generation=bundle.generation)
    return content


def note_phase(bundle: BootBundle, phase: str, message: str) -> None:
    """Keep how far the machine has come in the run's steps; a crash ends the start."""
    text = redacted(storable(message))[0][:MESSAGE_CHARS]
    ledger.note_phase(bundle.workspace_id, bundle.generation, phase, text)
    if phase == CRASHED:
        report_boot_failure(
            workspace_id=bundle.workspace_id,
            generation=bundle.generation,
            error="the workspace's machine could not start its agent",
            log_tail=message,
        )


def consume_boot_bundle(workspace_id: UUID, generation: int) -> None:
    """The agent of this generation has called: its secrets are fetched no more. For `hooks.came_online`."""
    rows = BootBundle.objects.filter(workspace_id=workspace_id, generation=generation)
    rows.update(sealed=CONSUMED, expires_at=Now())


def _make(spec: StartSpec) -> str:
    token = new_secret()
    made = BootBundle(
        workspace_id=spec.workspace_id,
        generation=spec.generation,
        token_hash=token_hash(token),
        expires_at=Now() + TTL,
    )
    made.sealed = seal_text(json.dumps({"token": token, **content_of(spec)}), _about(made))
    BootBundle.objects.bulk_create(
        [made],
        update_conflicts=True,
        unique_fields=["workspace", "generation"],
        update_fields=["token_hash", "sealed", "expires_at"],
    )
    return token


def _token_in(bundle: BootBundle) -> str | None:
    """None when the key it was sealed under is gone."""
    try:
        return str(json.loads(unseal_text(bundle.sealed, _about(bundle)))["token"])
    except CannotUnseal as error:
        log.warning("boot_bundle.unreadable", workspace_id=str(bundle.workspace_id), error=str(error))
        return None


def _about(bundle: BootBundle) -> str:
    return f"boot:{bundle.workspace_id}:{bundle.generation}"


def content_of(spec: StartSpec) -> dict[str, Any]:
    """What the machine of `spec` is handed."""
    return {
        "workspace_id": str(spec.workspace_id),
        "generation": spec.generation,
        "image": spec.image,
        "registry_auth": _registry_auth(),
        "env": dict(spec.environment),
        "files": {
            path: {"content_b64": base64.b64encode(file.content).decode(), "mode": file.mode}
            for path, file in spec.files.items()
        },
        "container": container_settings(spec.tier, spec.runtime),
    }


def _registry_auth() -> dict[str, str] | None:
    if not (settings.GHCR_USER and settings.GHCR_TOKEN and settings.MOLECULE_IMAGE_REGISTRY):
        return None
    server = settings.MOLECULE_IMAGE_REGISTRY.partition("/")[0]
    return {"server": server, "username": settings.GHCR_USER, "password": settings.GHCR_TOKEN}
