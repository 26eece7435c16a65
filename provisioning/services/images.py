"""Newer images for workspaces that run: fetched at once, taken up by a restart when there is no work to lose.

Source: docs/reference/provisioning.md, Images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models.functions import Now

from config.errors import Internal
from config.locks import outside_transaction
from provisioning import dispatch
from provisioning.models import WorkspaceLifecycle
from provisioning.services.restarts import Trigger, request_restart
from provisioning.verdicts import is_live
from workspaces.models import PARKED, Workspace

log = structlog.get_logger(__name__)

PULL_BUDGET_S = 300.0
PARALLEL = 2
REASON = "image_refresh"


def refresh_images(
    runtimes: Sequence[str], *, recreate: bool, force: bool, budget_s: float = PULL_BUDGET_S
) -> dict[str, list[str]]:
    """Fetch the newest image of each runtime and restart the workspaces of exactly those that were fetched.

    Returns names: runtimes `pulled` and `failed`; containers `recreated`, and `deferred` until their agent
    has nothing to do. Raises Internal with what was done when the containers cannot be listed.
    """
    outside_transaction()
    pulled = _pull(runtimes, budget_s)
    result: dict[str, list[str]] = {
        "pulled": pulled,
        "failed": [one for one in runtimes if one not in pulled],
        "recreated": [],
        "deferred": [],
    }
    if not (recreate and pulled):
        return result
    try:
        computes = dispatch.list_managed()
    except Exception as error:
        log.warning("images.unlisted", error=getattr(error, "detail", "") or str(error))
        raise Internal("containers could not be listed", partial_result=result) from error
    wanted = [one.workspace_id for one in computes if one.runtime in pulled and is_live(one)]
    for row in _idle_first(wanted):
        if row.active_tasks and not force:
            if _wait_for_idle(row.pk):
                result["deferred"].append(_container(row.pk))
        elif request_restart(row.pk, Trigger.MUTATION, REASON):
            result["recreated"].append(_container(row.pk))
    return result


def restart_for_image(waiting: WorkspaceLifecycle) -> bool:
    """Make a restart that has waited for its workspace to be idle, unless another has been made since."""
    asked, began = waiting.refresh_asked_at, waiting.cycle_started_at
    rows = WorkspaceLifecycle.objects.filter(pk=waiting.pk, refresh_asked_at=asked)
    with transaction.atomic():
        if not rows.update(refresh_asked_at=None):
            return False
        is_done = bool(asked and began and began > asked)
        return not is_done and request_restart(waiting.pk, Trigger.MUTATION, REASON)


def _pull(runtimes: Sequence[str], budget_s: float) -> list[str]:
    """The runtimes whose image was fetched in time. What is not finished goes on, and is the next call's."""
    pool = ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="pull")
    pulls = {one: pool.submit(dispatch.refresh_image, one) for one in runtimes}
    try:
        wait(pulls.values(), timeout=budget_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    pulled = []
    for runtime, pull in pulls.items():
        error = pull.exception() if pull.done() and not pull.cancelled() else TimeoutError("not in time")
        if error is None:
            pulled.append(runtime)
        else:
            detail = getattr(error, "detail", "") or str(error)
            log.warning("image.not_refreshed", runtime=runtime, error=detail)
    return pulled


def _idle_first(workspace_ids: Iterable[UUID]) -> Iterable[Workspace]:
    rows = Workspace.objects.managed().exclude(status__in=PARKED).filter(pk__in=set(workspace_ids))
    return rows.order_by("active_tasks", "pk")


def _wait_for_idle(workspace_id: UUID) -> bool:
    WorkspaceLifecycle.objects.bulk_create(
        [WorkspaceLifecycle(workspace_id=workspace_id)], ignore_conflicts=True
    )
    return bool(WorkspaceLifecycle.objects.filter(pk=workspace_id).update(refresh_asked_at=Now()))


def _container(workspace_id: UUID) -> str:
    return f"ws-{workspace_id}"
