"""The console's login cannot be guessed by trying."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from console.login import TRIES
from tests.conftest import at_once

LOGIN = "/console/login/"


def attempt(password: str, address: str = "10.0.0.9") -> Any:
    form = {"username": "ada", "password": password, "next": "/console/"}
    return Client(REMOTE_ADDR=address).post(LOGIN, form)


@pytest.mark.django_db
def test_after_ten_tries_even_the_right_password_waits(valkey: Any):
    User.objects.create_user("ada", password="right", is_staff=True)
    for _ in range(TRIES.most):
        assert "Please enter the correct" in attempt("wrong").content.decode()
    refused = attempt("right")
    assert "Too many tries" in refused.content.decode()
    assert refused.status_code == 200  # the form again, with its reason
    assert attempt("right", "10.0.0.10").status_code == 302  # somebody else is not locked out


@pytest.mark.django_db(transaction=True)
def test_tries_at_once_do_not_slip_through(valkey: Any):
    User.objects.create_user("ada", password="right", is_staff=True)
    answers = at_once(*[lambda: attempt("wrong") for _ in range(TRIES.most + 5)])
    refused = [one for one in answers if "Too many tries" in one.content.decode()]
    assert len(refused) == 5
