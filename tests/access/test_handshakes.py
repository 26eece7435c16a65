"""What a socket's handshake shares with every request: tenant guard, limits, sessions, revocation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from access import sessions, sockets
from access.models import OrgApiToken
from access.services import Caller, mint_org_token, revoke_org_token
from tests.access.control_plane import serving
from tests.activity.test_socket import Socket, admission, bearer, live
from tests.conftest import ADMIN_TOKEN

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

ADMIN = {"authorization": bearer(ADMIN_TOKEN)}


def test_a_socket_belongs_to_a_tenant(settings: Any) -> None:
    settings.MOLECULE_ORG_ID = "org-7"
    assert not admission(**ADMIN)[0]
    assert not admission(**ADMIN, x_molecule_org_id="org-8")[0]
    assert admission(**ADMIN, x_molecule_org_id="org-7")[0]


def test_a_handshake_costs_one_request(settings: Any, valkey: Any) -> None:
    settings.RATE_LIMIT = 2
    assert [admission(**ADMIN)[0] for _ in range(3)] == [True, True, False]
    assert valkey.get("rate:requests:admin") == b"3"


def test_failed_handshakes_count_as_failures(settings: Any, valkey: Any) -> None:
    settings.AUTH_FAIL_LIMIT = 2
    assert not any(admission(authorization=bearer(f"junk-{number}"))[0] for number in range(3))
    assert int(valkey.get("rate:auth-failures:ip:127.0.0.1")) >= 2
    assert admission(**ADMIN)[0]


def test_a_session_opens_the_canvas_stream(settings: Any) -> None:
    with serving() as plane:
        settings.CP_UPSTREAM_URL, settings.MOLECULE_ORG_SLUG = plane.url, "acme"
        assert admission(cookie="session=a", origin="http://testserver")[0]
        assert not admission(cookie="session=a", origin="https://evil.example")[0]
        plane.answers(200, {"member": False})
        assert not admission(cookie="session=b", origin="http://testserver")[0]


def test_an_org_token_opens_the_canvas_stream_until_it_is_revoked(monkeypatch: Any) -> None:
    monkeypatch.setattr(sockets, "RECHECK_S", 0.1)
    token = mint_org_token(caller=Caller(actor="test")).plaintext

    async def body() -> None:
        async with Socket(authorization=bearer(token)) as socket:
            assert socket.accepted
            await asyncio.sleep(0.3)
            row = await OrgApiToken.objects.aget()
            await sync_to_async(revoke_org_token)(token_id=row.pk, caller=Caller(actor="test"))
            assert await socket.close_code() == 4401

    live(body)


def test_a_session_loses_its_socket_when_it_ends(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sockets, "RECHECK_S", 0.1)
    monkeypatch.setattr(sessions, "MEMBER_S", 0.0)
    with serving() as plane:
        settings.CP_UPSTREAM_URL, settings.MOLECULE_ORG_SLUG = plane.url, "acme"

        async def body() -> None:
            async with Socket(cookie="session=a", origin="http://testserver") as socket:
                assert socket.accepted
                plane.answers(503)
                await asyncio.sleep(0.3)  # cannot tell: the socket stays
                plane.answers(200, {"member": False})
                assert await socket.close_code() == 4401

        live(body)


def test_a_revoked_credential_loses_its_socket_within_a_minute() -> None:
    assert sockets.RECHECK_S + sessions.MEMBER_S < 60
