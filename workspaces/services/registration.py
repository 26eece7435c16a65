"""Register: an agent says where it is and who it is. Idempotent. Source: docs/reference/registry.md,
Register.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from access.credentials import Principal
from access.models import TokenKind
from access.services import has_live_instance_token, mint_token
from access.url_policy import check_url
from activity.events import EventType, record
from config.errors import BadRequest, Gone, NotFound
from config.states import update_returning
from workspaces.cache import mark_alive, remember_url
from workspaces.defaults import default_tier, is_saas
from workspaces.models import DORMANT, EXTERNAL, STATES, DeliveryMode, Status, UrlSource, Workspace
from workspaces.services.heartbeats import announce_online
from workspaces.services.inbound_secrets import inbound_secret
from workspaces.services.registrant import REMOVED_HINT, Registrant, identify


@dataclass(frozen=True)
class Registration:
    """The body of `POST /registry/register`, validated for shape only."""

    workspace_id: UUID
    agent_card: Mapping[str, Any]
    url: str = ""
    delivery_mode: str | None = None


def register(wanted: Registration, authorization: str | None, principal: Principal) -> dict[str, Any]:
    """Store what the agent says and bring its row online; returns the answer, with a token when one was
    minted now.

    Raises BadRequest (url), NotFound (unknown id without an admin-class credential), Gone, Unauthorized,
    Unavailable.
    """
    known = Workspace.objects.filter(pk=wanted.workspace_id).first()
    if known is None:
        if not principal.is_admin_class:
            raise NotFound("workspace not found")
        registrant = Registrant(wanted.workspace_id, Status.ONLINE, 0, EXTERNAL, None, None, None)
    else:
        registrant = identify(wanted.workspace_id, authorization, registering=True)
    mode = effective_mode(wanted, known)
    url = _dialable_url(wanted, known, mode)
    card = _presentable_card(wanted, known, mode)
    if known is None:
        _create(wanted, mode, url, card)
    with transaction.atomic():
        row = Workspace.objects.select_for_update().get(pk=wanted.workspace_id)
        if row.status == Status.REMOVED:
            raise Gone("workspace removed", id=str(row.pk), hint=REMOVED_HINT)
        token = ""
        if not has_live_instance_token(row.pk):
            token = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=row.generation)
        stored = _store(row, registrant, wanted, mode, url, card)
    return _answer(stored, token)


def effective_mode(wanted: Registration, known: Workspace | None) -> DeliveryMode:
    """Named now, else named before, else derived: an external agent without a callable url polls."""
    if wanted.delivery_mode:
        return DeliveryMode(wanted.delivery_mode)
    if known is not None and known.delivery_mode_explicit:
        return DeliveryMode(known.delivery_mode)
    if known is not None and not known.is_managed:
        return DeliveryMode.PUSH if wanted.url.startswith(("http://", "https://")) else DeliveryMode.POLL
    return DeliveryMode.PUSH


def _dialable_url(wanted: Registration, known: Workspace | None, mode: DeliveryMode) -> str:
    """The url to store; empty when none is needed. A url the server wrote itself is never judged or
    replaced.
    """
    has_platform_url = known is not None and known.url and known.url_source == UrlSource.PLATFORM
    if mode == DeliveryMode.POLL or has_platform_url:
        return ""
    url = wanted.url or _card_url(wanted.agent_card)
    if not url:
        raise BadRequest("url is required for push-mode workspaces")
    check_url(url, is_saas=is_saas())
    return url


def _card_url(card: Mapping[str, Any]) -> str:
    url = card.get("url")
    return url if isinstance(url, str) else ""


def _presentable_card(wanted: Registration, known: Workspace | None, mode: DeliveryMode) -> dict[str, Any]:
    """The card with its gaps filled from the row, without an address nobody may call."""
    card = dict(wanted.agent_card)
    if known is not None:
        if not card.get("name") or str(card["name"]).lower() == str(known.pk):
            card["name"] = known.name
        if not str(card.get("description") or "").strip():
            card["description"] = card["name"]
        if known.role and not card.get("role"):
            card["role"] = known.role
    if mode == DeliveryMode.POLL and _card_url(card):
        try:
            check_url(_card_url(card), is_saas=is_saas())
        except BadRequest:
            del card["url"]
    return card


def _create(wanted: Registration, mode: DeliveryMode, url: str, card: Mapping[str, Any]) -> None:
    """A row for an id nobody created: external, since nobody provisioned it. A racing twin is as good."""
    row = Workspace(
        id=wanted.workspace_id,
        name=str(wanted.workspace_id),
        tier=default_tier(),
        status=Status.ONLINE,
        runtime=EXTERNAL,
        url=url,
        delivery_mode=mode,
        agent_card=dict(card),
        awareness_namespace=f"workspace:{wanted.workspace_id}",
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        if not Workspace.objects.filter(pk=row.pk).exists():
            raise


def _store(
    row: Workspace,
    registrant: Registrant,
    wanted: Registration,
    mode: DeliveryMode,
    url: str,
    card: Mapping[str, Any],
) -> Workspace:
    """Write what this caller may write to the locked row and announce it; a parked row only gets card and
    time.
    """
    seen = {"agent_card": dict(card), "last_heartbeat_at": Now(), "updated_at": Now()}
    here = Workspace.objects.filter(pk=row.pk)
    if row.status in DORMANT or not _is_current(row, registrant):
        return update_returning(here, **seen)[0]
    if row.url_source != UrlSource.PLATFORM or not row.url:
        seen.update(url=url, url_source=UrlSource.AGENT)
    seen.update(delivery_mode=mode)
    if wanted.delivery_mode:
        seen.update(delivery_mode_explicit=True)
    if row.status == Status.ONLINE:
        (stored,) = update_returning(here, **seen)
    else:
        (stored,) = STATES.move(here, Status.ONLINE, last_sample_error=None, **seen)
        announce_online(Registrant(row.pk, row.status, row.generation, row.runtime, None, None, None))
    payload = {
        "url": stored.url or "",
        "agent_card": stored.agent_card,
        "delivery_mode": stored.delivery_mode,
    }
    record(EventType.WORKSPACE_ONLINE, row.pk, payload)
    transaction.on_commit(lambda: _remember(stored), robust=True)
    return stored


def _is_current(row: Workspace, registrant: Registrant) -> bool:
    """Whether the caller belongs to the compute the row is waiting for."""
    fenced = row.is_managed and row.status in {Status.PROVISIONING, Status.FAILED}
    return not fenced or registrant.token_generation in {None, row.generation}


def _remember(row: Workspace) -> None:
    mark_alive(row.pk)
    if row.url:
        remember_url(row.pk, row.url)


def _answer(row: Workspace, token: str) -> dict[str, Any]:
    answer = {"status": "registered", "delivery_mode": row.delivery_mode}
    if token:
        answer["auth_token"] = token
    answer["platform_inbound_secret"] = inbound_secret(row.pk)
    return answer
