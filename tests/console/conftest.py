"""Logins of each role, and a browser that carries them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

MOST_QUERIES = 11  # of a list, whatever its length


def login(role: str | None, *, name: str = "") -> Client:
    """The browser of somebody on duty; without a role one who may log in and no more."""
    user = User.objects.create_user(name or f"a-{role or 'nobody'}", password="a long one", is_staff=True)
    if role:
        user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


@contextmanager
def few_queries(most: int = MOST_QUERIES) -> Iterator[None]:
    with CaptureQueriesContext(connection) as seen:
        yield
    assert len(seen) <= most, [one["sql"][:100] for one in seen]


@pytest.fixture
def as_role() -> Callable[..., Client]:
    return login


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, (answer.status_code, answer.get("Location"), answer.content[:300])
    return str(answer.content.decode())
