"""Who may send to a workspace, and where a message for it goes.

Source: docs/reference/a2a.md, Targets.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from a2a.callers import Caller, CallerKind
from a2a.wire import Call
from access.url_policy import Unresolvable, vetted_address
from config.errors import BadGateway, BadRequest, Forbidden, NotFound, PaymentRequired, Unavailable
from provisioning.services import Standing, is_waking, lose, standing_of, wake
from workspaces.budgets import effective_spend
from workspaces.defaults import is_saas
from workspaces.models import Status, UrlSource, Workspace
from workspaces.selectors import can_communicate, internal_address
from workspaces.services import inbound_secret

UNREACHED = "failed to reach workspace agent"
WAKING_S = 15  # after which a sender may ask again
FRESH = timedelta(seconds=60)
STARTING = frozenset({Status.PROVISIONING, Status.AWAITING_AGENT})


class Unreachable(BadGateway):
    """Not refused: a name that has no address now may have one at the next attempt."""


def admitted(target_id: UUID, caller: Caller) -> Workspace:
    """The target, when the caller may send to it now.

    Raises NotFound, Forbidden (no relative), PaymentRequired. The server itself asks no hierarchy.
    """
    target = Workspace.objects.live().filter(pk=target_id).first()
    if target is None:
        raise NotFound("workspace not found")
    if caller.kind == CallerKind.WORKSPACE and not (caller.id and can_communicate(caller.id, target_id)):
        raise Forbidden("access denied: workspaces cannot communicate per hierarchy rules")
    if is_spent(target):
        raise PaymentRequired("workspace budget limit exceeded")
    return target


def is_spent(target: Workspace) -> bool:
    """Whether the workspace has used up its monthly budget; without a limit it never has."""
    if target.budget_limit is None:
        return False
    spent = effective_spend(target.monthly_spend, target.spend_month, now=timezone.now())
    return spent >= target.budget_limit


def call_for(target: Workspace) -> Call:
    """How to reach a push-mode workspace.

    Raises Unavailable (no url, or asleep: then it is woken), Unreachable (its name has no address now),
    BadGateway (an address we do not call).
    """
    if not target.url:
        if wake_sleeping(target) or is_waking(target):
            raise _waking()
        raise Unavailable("workspace has no URL", status=target.status)
    url = reachable_url(target)
    if target.url_source == UrlSource.PLATFORM or url != target.url:
        return Call(url, None, inbound_secret(target.pk))
    try:
        address = vetted_address(url, is_saas=is_saas())
    except Unresolvable:
        raise Unreachable(UNREACHED) from None
    except BadRequest:
        raise BadGateway("workspace URL is not publicly routable") from None
    return Call(url, str(address), inbound_secret(target.pk))


def reachable_url(target: Workspace) -> str:
    """The stored url, or the address inside the network for compute of ours when we run in a container too:
    its loopback is not ours.
    """
    url = target.url or ""
    if target.is_managed and is_in_container() and urlsplit(url).hostname == "127.0.0.1":
        return internal_address(target)
    return url


def is_in_container() -> bool:
    given = str(settings.MOLECULE_IN_DOCKER).strip().lower()
    if given:
        return given in {"1", "true", "yes", "on"}
    return os.path.exists("/.dockerenv")


def wake_sleeping(target: Workspace) -> bool:
    """Whether the workspace was asleep and is on its way now, whoever woke it."""
    return target.status == Status.HIBERNATED and wake(target.pk)


def _waking() -> Unavailable:
    return Unavailable(
        "workspace is waking from hibernation — retry in ~15 seconds",
        headers={"Retry-After": str(WAKING_S)},
        waking=True,
        retry_after=WAKING_S,
    )


class Life(StrEnum):
    """What is known of a target that could not be talked to."""

    ALIVE = "alive"
    UNSURE = "unsure"
    GONE = "gone"  # and its row says so now
    DOUBTFUL = "doubtful"  # not running, yet it called a moment ago: not recycled


def examine(target_id: UUID) -> Life:
    """Ask the backend about a target that failed; one whose compute is gone is marked and restarted, once."""
    target = Workspace.objects.filter(pk=target_id).first()
    if target is None:
        return Life.UNSURE
    match standing_of(target):
        case Standing.RUNNING:
            return Life.ALIVE
        case Standing.UNSURE:
            return Life.UNSURE
        case Standing.DOUBTFUL:
            return Life.DOUBTFUL
    lose(target, reason="message")
    return Life.GONE


def is_recovering(target_id: UUID) -> bool:
    """Whether a start, a restart or a wake of the target is under way."""
    status = Workspace.objects.filter(pk=target_id).values_list("status", flat=True).first()
    return status in STARTING | {Status.OFFLINE, Status.HIBERNATED}


def beat_recently(target: Workspace, now: datetime) -> bool:
    return target.last_heartbeat_at is not None and target.last_heartbeat_at > now - FRESH
