"""Images that moved in the registry, and the workspaces that should run them."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models.functions import Now

from config.jobs import Job, enqueue
from config.locks import try_lock
from provisioning.duties import watches_images
from provisioning.models import ImageWatchState, RuntimeImagePin
from provisioning.registry import RegistryError, newest_digest
from provisioning.services.images import refresh_images
from provisioning.services.sweeps.rows import acted_on_image, each
from workspaces.defaults import known_runtimes
from workspaces.models import EXTERNAL


def watch_images(now: datetime) -> int:
    """Ask the registry for the newest digest of every runtime that is not pinned. Returns those that moved.

    The first digest seen is only remembered. A moved one is remembered by whoever has fetched it, so that a
    failure, or the death of a worker, is tried again with the next tick.
    """
    pinned = set(RuntimeImagePin.objects.values_list("template_name", flat=True))
    known = {row.runtime: row for row in ImageWatchState.objects.all()}
    watched = sorted(known_runtimes() - {EXTERNAL} - pinned)
    return each(watched, lambda runtime: _watch(runtime, known.get(runtime)), within_s=240)


def _watch(runtime: str, known: ImageWatchState | None) -> bool:
    try:
        digest = newest_digest(runtime)
    except RegistryError as error:
        _note(runtime, last_error=str(error))
        return False
    if known is None or known.digest is None:
        _note(runtime, digest=digest, seen_at=Now(), last_error=None)
        return False
    if known.digest == digest:
        _note(runtime, seen_at=Now(), last_error=None)
        return False
    with transaction.atomic():
        enqueue(Job.IMAGE_REFRESH, runtime=runtime, digest=digest)
    return acted_on_image(runtime, digest)


def take_up_image(runtime: str, digest: str) -> bool:
    """Fetch the image that has moved, restart its workspaces, and only then remember its digest."""
    with try_lock(f"image-refresh:{runtime}") as mine:
        is_news = ImageWatchState.objects.filter(pk=runtime).exclude(digest=digest).exists()
        if not (mine and is_news and watches_images()):
            return False
        result = refresh_images([runtime], recreate=True, force=False)
        if result["failed"]:
            _note(runtime, last_error="the image could not be fetched")
            return False
        _note(runtime, digest=digest, last_error=None)
        return True


def _note(runtime: str, **facts: object) -> None:
    ImageWatchState.objects.bulk_create(
        [ImageWatchState(runtime=runtime, **facts)],
        update_conflicts=True,
        unique_fields=["runtime"],
        update_fields=list(facts),
    )
