from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from access.url_policy import check_url, vetted_address
from config.errors import BadRequest

STRICT, SAAS, DEVELOPMENT = "strict", "saas", "development"
EVERYWHERE = {STRICT, SAAS, DEVELOPMENT}

# Who blocks which address.
TABLE = [
    ("169.254.169.254", EVERYWHERE),
    ("[fe80::1]", EVERYWHERE),
    ("0.0.0.0", EVERYWHERE),
    ("[::]", EVERYWHERE),
    ("224.0.0.1", EVERYWHERE),
    ("[ff02::1]", EVERYWHERE),
    ("192.0.2.1", EVERYWHERE),
    ("198.51.100.1", EVERYWHERE),
    ("203.0.113.1", EVERYWHERE),
    ("[2001:db8::1]", EVERYWHERE),
    ("100.64.0.1", EVERYWHERE),
    ("240.0.0.1", EVERYWHERE),
    ("255.255.255.255", EVERYWHERE),
    ("[fc00::1]", EVERYWHERE),
    ("127.0.0.1", {STRICT, SAAS}),
    ("127.9.9.9", {STRICT, SAAS}),
    ("[::1]", {STRICT, SAAS}),
    ("10.0.0.1", {STRICT}),
    ("172.16.0.1", {STRICT}),
    ("172.31.255.255", {STRICT}),
    ("192.168.1.1", {STRICT}),
    ("[fd00::1]", {STRICT}),
    ("[fd00:ec2::254]", EVERYWHERE),  # the cloud's metadata, on a private range
    ("172.32.0.1", set()),
    ("1.1.1.1", set()),
    ("[2606:4700::1111]", set()),
    # Wrapped: what is inside is judged.
    ("[::ffff:169.254.169.254]", EVERYWHERE),
    ("[::ffff:127.0.0.1]", {STRICT, SAAS}),
    ("[::ffff:1.1.1.1]", set()),
    ("[2002:a9fe:a9fe::1]", EVERYWHERE),
    ("[64:ff9b::a9fe:a9fe]", EVERYWHERE),
    ("[64:ff9b::a00:1]", {STRICT}),
    ("[2002:7f00:1::1]", {STRICT, SAAS}),
    ("[2001:0:1111:1111:0:0:5601:5601]", EVERYWHERE),  # Teredo of 169.254.169.254
]
# Spellings of 127.0.0.1 that the resolver understands.
SPELLINGS = ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"]


def judged(settings: Any, posture: str, url: str) -> str | None:
    settings.MOLECULE_ENV = "development" if posture == DEVELOPMENT else ""
    try:
        check_url(url, is_saas=posture == SAAS)
    except BadRequest as refusal:
        return refusal.text
    return None


@pytest.mark.parametrize("posture", sorted(EVERYWHERE))
@pytest.mark.parametrize(("host", "blocked_in"), TABLE)
def test_the_table(settings: Any, posture: str, host: str, blocked_in: set[str]) -> None:
    text = judged(settings, posture, f"http://{host}:8000/path")
    assert (text is not None) == (posture in blocked_in)
    if text is not None:
        assert text.startswith("url targets a blocked address: ")
        assert host.strip("[]") not in text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://1.1.1.1", 'url scheme must be http or https, got "ftp"'),
        ("file:///etc/passwd", 'url scheme must be http or https, got "file"'),
        ("1.1.1.1:80", 'url scheme must be http or https, got ""'),
        ("", 'url scheme must be http or https, got ""'),
        ("http://", "url targets a blocked address: malformed"),
        ("http:///path", "url targets a blocked address: malformed"),
        ("http://user@1.1.1.1", "url targets a blocked address: malformed"),
        ("http://user:pass@1.1.1.1", "url targets a blocked address: malformed"),
        ("http://1.1.1.1\\@2.2.2.2", "url targets a blocked address: malformed"),
        ("http://[::1", "url targets a blocked address: malformed"),
        ("http://1.1.1.1:99999", "url targets a blocked address: malformed"),
        ("http://1.1.1.1:port", "url targets a blocked address: malformed"),
    ],
)
def test_what_is_no_address_is_refused_in_fixed_words(settings: Any, url: str, text: str) -> None:
    assert judged(settings, STRICT, url) == text


@pytest.mark.parametrize(("posture", "is_refused"), [(STRICT, False), (SAAS, True), (DEVELOPMENT, False)])
def test_localhost_by_name_may_be_stored_outside_saas(settings: Any, posture: str, is_refused: bool) -> None:
    assert (judged(settings, posture, "http://localhost:9000") is not None) == is_refused


def test_localhost_is_judged_again_when_it_is_dialled(settings: Any) -> None:
    settings.MOLECULE_ENV = ""
    with pytest.raises(BadRequest, match='hostname "localhost" resolves to forbidden address: loopback'):
        vetted_address("http://localhost:9000", is_saas=False)


@pytest.mark.parametrize("host", SPELLINGS)
def test_another_spelling_of_loopback_is_resolved_and_refused(settings: Any, host: str) -> None:
    text = judged(settings, STRICT, f"http://{host}/")
    assert text is not None
    assert "127.0.0.1" not in text


def test_a_name_that_does_not_resolve_is_refused(settings: Any) -> None:
    text = judged(settings, STRICT, "http://no-such-host.invalid/")
    assert text == 'hostname "no-such-host.invalid" cannot be resolved (DNS error)'


def test_the_vetted_address_is_the_one_to_dial(settings: Any) -> None:
    settings.MOLECULE_ENV = "development"
    assert str(vetted_address("http://localhost:9000", is_saas=False)) in {"127.0.0.1", "::1"}


@pytest.mark.django_db(transaction=True)
def test_a_name_is_not_resolved_inside_a_transaction() -> None:
    with transaction.atomic(), pytest.raises(transaction.TransactionManagementError):
        vetted_address("http://localhost/", is_saas=False)
