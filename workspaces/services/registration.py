"""Register: an agent says where it is and who it is.

Idempotent. Source: docs/reference/registry.md, Register.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from access.models import TokenKind
from access.services import has_live_instance_token, mint_token
from access.url_policy import check_url
from activity.events import EventType, record
from config.errors import BadRequest, NotFound, failing_as
from config.states import update_returning
from workspaces.cache import remember_contact
from workspaces.cards import card_url, completed, without_forbidden_url
from workspaces.defaults import default_tier, is_saas
from workspaces.models import DORMANT, EXTERNAL, DeliveryMode, Status, UrlSource, Workspace
from workspaces.selectors import internal_address
from workspaces.services.heartbeats import announce_online
from workspaces.services.inbound_secrets import deliverable_secret
from workspaces.services.moves import NOTHING, count_moves, move
from workspaces.services.registrant import Registrant, find, identify, new_registrant


@dataclass(frozen=True)
class Registration:
    """The body of `POST /registry/register`, validated for shape only."""

    workspace_id: UUID
    agent_card: Mapping[str, Any]
    url: str = ""
    delivery_mode: str | None = None


@dataclass(frozen=True)
class Contact:
    """What of a registration is to be stored: judged before the row is locked, since names are resolved."""

    mode: DeliveryMode
    url: str
    card: Mapping[str, Any]


def register(
    wanted: Registration, authorization: str | None, *, is_operator: Callable[[], bool]
) -> dict[str, Any]:
    """Store what the agent says and bring its row online; returns the answer, with a token when one was
    minted now.

    Raises BadRequest (url), NotFound (an unknown id, unless `is_operator`), Gone, Unauthorized, Unavailable.
    """
    known = find(wanted.workspace_id)
    if known is not None:
        identify(wanted.workspace_id, authorization, registering=True)
    elif not is_operator():
        raise NotFound("workspace not found")
    contact = _contact(wanted, known)
    with failing_as("registration failed"), transaction.atomic():
        is_new = known is None and _create(wanted.workspace_id, contact)
        row = Workspace.objects.select_for_update().get(pk=wanted.workspace_id)
        if is_new:
            registrant = new_registrant(row)
        else:  # again, under the lock: of two first contacts the second one now needs the token of the first
            registrant = identify(wanted.workspace_id, authorization, registering=True)
        token = ""
        if not has_live_instance_token(row.pk):
            token = mint_token(workspace_id=row.pk, kind=TokenKind.INSTANCE, generation=row.generation)
        stored = _store(row, registrant, contact, names_mode=wanted.delivery_mode is not None)
    return _answer(stored, token)


def effective_mode(wanted: Registration, known: Workspace | None) -> DeliveryMode:
    """Named now, else named before, else derived: an external agent without a callable url polls."""
    if wanted.delivery_mode:
        return DeliveryMode(wanted.delivery_mode)
    if known is not None and known.delivery_mode_explicit:
        return DeliveryMode(known.delivery_mode)
    if known is not None and not known.is_managed:
        return DeliveryMode.PUSH if _is_callable(wanted.url) else DeliveryMode.POLL
    return DeliveryMode.PUSH


def _is_callable(url: str) -> bool:
    try:
        return urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        return url.lower().startswith(("http:", "https:"))  # damaged: the url policy says so


def _contact(wanted: Registration, known: Workspace | None) -> Contact:
    """Raises BadRequest for a url that push mode needs and that may not be called.

    A url the server wrote itself is never judged or replaced.
    """
    name, role = (known.name, known.role) if known else (str(wanted.workspace_id), None)
    card = completed(wanted.agent_card, workspace_id=wanted.workspace_id, name=name, role=role)
    mode = effective_mode(wanted, known)
    if mode == DeliveryMode.POLL:
        return Contact(mode, "", without_forbidden_url(card))
    if known is not None and known.url and known.url_source == UrlSource.PLATFORM:
        return Contact(mode, "", card)
    url = wanted.url or card_url(card)
    if not url:
        raise BadRequest("url is required for push-mode workspaces")
    check_url(url, is_saas=is_saas())
    if card_url(card) not in {"", url}:
        check_url(card_url(card), is_saas=is_saas())
    return Contact(mode, url, card)


def _create(workspace_id: UUID, contact: Contact) -> bool:
    """A row for an id nobody created: external, since nobody provisioned it. False: a twin was first."""
    row = Workspace(
        id=workspace_id,
        name=str(workspace_id),
        tier=default_tier(),
        status=Status.ONLINE,
        runtime=EXTERNAL,
        url=contact.url,
        delivery_mode=contact.mode,
        awareness_namespace=f"workspace:{workspace_id}",
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        if Workspace.objects.filter(pk=row.pk).exists():
            return False
        raise
    count_moves([NOTHING], row.status, "register")
    return True


def _store(row: Workspace, registrant: Registrant, contact: Contact, *, names_mode: bool) -> Workspace:
    """Write what this caller may write to the locked row and announce it;
    a parked row only gets card and time.
    """
    here = Workspace.objects.filter(pk=row.pk)
    seen: dict[str, Any] = {
        "agent_card": dict(contact.card),
        "last_heartbeat_at": Now(),
        "updated_at": Now(),
    }
    if row.status in DORMANT or not _is_current(row, registrant):
        return update_returning(here, **seen)[0]
    if row.url_source != UrlSource.PLATFORM or not row.url:
        seen.update(url=contact.url, url_source=UrlSource.AGENT)
    if names_mode:
        seen.update(delivery_mode_explicit=True)
    seen.update(delivery_mode=contact.mode, last_sample_error=None)
    (moved,) = move(here, Status.ONLINE, trigger="register", **seen)
    announce_online(row.pk, row.generation, came_from=moved.prior)
    stored = moved.row
    payload = {
        "url": stored.url or "",
        "agent_card": stored.agent_card,
        "delivery_mode": stored.delivery_mode,
    }
    record(EventType.WORKSPACE_ONLINE, row.pk, payload)
    addresses = (stored.url or "", internal_address(stored))
    transaction.on_commit(lambda: remember_contact(stored.pk, *addresses), robust=True)
    return stored


def _is_current(row: Workspace, registrant: Registrant) -> bool:
    """Whether the caller belongs to the compute the row is waiting for."""
    fenced = row.is_managed and row.status in {Status.PROVISIONING, Status.FAILED}
    return not fenced or registrant.token_generation in {None, row.generation}


def _answer(row: Workspace, token: str) -> dict[str, Any]:
    answer = {"status": "registered", "delivery_mode": row.delivery_mode}
    if token:
        answer["auth_token"] = token
    if secret := deliverable_secret(row.pk):
        answer["platform_inbound_secret"] = secret
    return answer
