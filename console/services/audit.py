"""Every action of an operator leaves a row: written and committed before it begins, ended when it has.

Source: docs/reference/console.md, Audit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID, uuid4

import structlog
from django.db.models.functions import Now

from config.errors import BadRequest, DomainError
from config.states import update_returning
from console.models import OperatorAction, Outcome
from delegations.previews import shortened

log = structlog.get_logger(__name__)

REASON_CHARS = 500
RESULT_CHARS = 50_000  # the ids of a thousand workspaces


@dataclass(frozen=True)
class Asked:
    """Who wants what, and why."""

    actor: str
    verb: str
    object_kind: str
    object_id: str
    reason: str
    object_name: str = ""
    client_address: str = ""
    id: UUID = field(default_factory=uuid4)  # the record's


@dataclass(frozen=True)
class Told:
    """What became of it, in a sentence for people.

    `started`: it goes on without this process, `page` shows how far it is, and who ends it calls `end`.
    """

    text: str
    outcome: Outcome = Outcome.DONE
    page: str = ""


def act(asked: Asked, verb: Callable[[], Told]) -> Told:
    """Run `verb` between the two writes of its record.

    Must be called outside a transaction, or the record of a failed action would go with it. What the product
    refuses is an answer too (`refused`). Raises BadRequest: no reason, or a long one; and whatever else
    `verb` raises, recorded as `failed`.
    """
    reason = asked.reason.strip()
    if not reason or len(reason) > REASON_CHARS:
        raise BadRequest(f"a reason of 1 to {REASON_CHARS} characters is needed")
    _record(asked, reason=reason)
    try:
        told = verb()
    except DomainError as error:
        told = Told(error.text, Outcome.REFUSED if error.status < 500 else Outcome.FAILED)
    except Exception as error:
        end(asked.id, Told(f"an error of the server: {type(error).__name__}", Outcome.FAILED))
        raise
    if told.outcome != Outcome.STARTED:
        end(asked.id, told)
    return told


def note(asked: Asked, told: Told) -> None:
    """One write for what is one transaction: the record is there exactly when the change is."""
    _record(asked, outcome=told.outcome, result=shortened(told.text, RESULT_CHARS), ended_at=Now())


def _record(asked: Asked, **fields: Any) -> None:
    OperatorAction.objects.create(**{**asdict(asked), **fields})


def end(action_id: UUID, told: Told) -> None:
    """The second write of a record; of one that has ended already nothing changes."""
    rows = OperatorAction.objects.filter(pk=action_id, outcome=Outcome.STARTED)
    for row in update_returning(
        rows, outcome=told.outcome, result=shortened(told.text, RESULT_CHARS), ended_at=Now()
    ):
        log.info(
            "console.action",
            action_id=str(row.pk),
            actor=row.actor,
            verb=row.verb,
            object_id=row.object_id,
            outcome=row.outcome,
        )
