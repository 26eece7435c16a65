"""What a verb raises when it cannot do what it was asked: one class per HTTP status, text and fields
included.

`config.http` renders them as `{"error": <text>, **fields}`. The texts are part of the wire contract
(docs/reference/errors.md); driver, file and URL text never goes into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError

log = structlog.get_logger(__name__)


class DomainError(Exception):
    """An answer other than success.

    `fields` are extra machine-readable keys; `headers` extra response headers.
    """

    status: ClassVar[int] = 500

    def __init__(self, text: str, *, headers: dict[str, str] | None = None, **fields: Any) -> None:
        super().__init__(text)
        self.text = text
        self.fields = fields
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.text, **self.fields}


class BadRequest(DomainError):
    status = 400


class Unauthorized(DomainError):
    """A bad or missing credential, nothing else: clients take 401 as final."""

    status = 401

    def __init__(self, text: str, **fields: Any) -> None:
        super().__init__(text, headers={"WWW-Authenticate": "Bearer"}, **fields)


class PaymentRequired(DomainError):
    status = 402


class Forbidden(DomainError):
    status = 403


class NotFound(DomainError):
    status = 404


class Conflict(DomainError):
    status = 409


class Gone(DomainError):
    status = 410


class TooLarge(DomainError):
    status = 413


class PreconditionFailed(DomainError):
    status = 412


class UnsupportedMedia(DomainError):
    status = 415


class Unprocessable(DomainError):
    status = 422


class TooManyRequests(DomainError):
    status = 429


class Internal(DomainError):
    status = 500


class NotImplementedHere(DomainError):
    """This deployment has nothing that could answer; clients show that instead of an error."""

    status = 501


class BadGateway(DomainError):
    status = 502


class Unavailable(DomainError):
    """ "Cannot tell" or "not now": clients retry."""

    status = 503


class GatewayTimeout(DomainError):
    status = 504


def datastore_unavailable() -> Unavailable:
    """The one answer when the database cannot be asked; the canvas matches on `code`."""
    return Unavailable("platform datastore unavailable — retry shortly", code="platform_unavailable")


@contextmanager
def failing_as(text: str) -> Iterator[None]:
    """Answer a database error inside the block with 500 and `text`; its own words go to the log.

    A database that cannot be reached stays a 503: the request may be repeated as it is.
    """
    try:
        yield
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError as error:
        log.exception("request.failed", answered=text)
        raise Internal(text) from error
