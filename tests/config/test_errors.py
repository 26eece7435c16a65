from __future__ import annotations

import pytest
from django.db import IntegrityError, InterfaceError, OperationalError

from config import errors
from config.errors import DomainError, Unauthorized, datastore_unavailable


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("BadRequest", 400),
        ("Unauthorized", 401),
        ("Forbidden", 403),
        ("NotFound", 404),
        ("Conflict", 409),
        ("Gone", 410),
        ("TooLarge", 413),
        ("Unprocessable", 422),
        ("TooManyRequests", 429),
        ("Internal", 500),
        ("BadGateway", 502),
        ("Unavailable", 503),
    ],
)
def test_each_class_has_its_status(name: str, status: int) -> None:
    assert getattr(errors, name)("text").status == status


def test_the_body_is_the_text_and_the_fields() -> None:
    assert DomainError("no", status_now="paused").body == {"error": "no", "status_now": "paused"}


def test_a_401_announces_its_scheme() -> None:
    assert Unauthorized("who?").headers == {"WWW-Authenticate": "Bearer"}


def test_an_unreachable_database_has_one_answer() -> None:
    error = datastore_unavailable()
    assert error.status == 503
    assert error.body == {
        "error": "platform datastore unavailable — retry shortly",
        "code": "platform_unavailable",
    }


def test_a_refusing_database_is_answered_in_fixed_words_and_an_absent_one_is_not_hidden() -> None:
    with pytest.raises(errors.Internal) as refused, errors.failing_as("update failed"):
        raise IntegrityError("driver text")
    assert refused.value.body == {"error": "update failed"}
    for absent in (OperationalError("gone"), InterfaceError("gone")):
        with pytest.raises(type(absent)), errors.failing_as("update failed"):
            raise absent
    with pytest.raises(errors.NotFound), errors.failing_as("update failed"):
        raise errors.NotFound("workspace not found")
