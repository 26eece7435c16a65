from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from uuid import UUID

import pytest

from config.errors import BadRequest
from config.http import MAX_NESTING, from_json, rfc3339, to_json, workspace_uuid


def test_a_time_is_utc_with_all_six_digits() -> None:
    moment = datetime(2026, 1, 31, 14, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-01-31T12:00:00.000005Z"


def test_json_is_compact() -> None:
    value = {
        "id": UUID(int=7),
        "at": datetime(2026, 1, 1, tzinfo=timezone.utc),  # noqa: UP017
        "map": MappingProxyType({"a": [1, None]}),
    }
    assert to_json(value) == (
        b'{"id":"00000000-0000-0000-0000-000000000007","at":"2026-01-01T00:00:00.000000Z","map":{"a":[1,null]}}'
    )


@pytest.mark.parametrize("body", [b"", b"  \r\n"])
def test_an_empty_body_is_an_empty_object(body: bytes) -> None:
    assert from_json(body) == {}


@pytest.mark.parametrize(
    "body", [b"{", b"nope", b'{"a":NaN}', b"\xff", b'{"a":"\\ud800"', b'{"b":NaN,"a":"\\ud800"}']
)
def test_what_is_no_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="invalid request body"):
        from_json(body)


def test_a_lone_surrogate_is_replaced_and_a_pair_is_kept() -> None:
    assert from_json(rb'{"a":"x\ud83d","b":"\ud83d\ude00","\udc00":1}') == {
        "a": "x\ufffd",
        "b": "😀",
        "\ufffd": 1,
    }


def test_json_nested_beyond_reason_is_a_bad_request() -> None:
    deep = MAX_NESTING
    assert from_json(b"[" * deep + b"]" * deep)
    for body in (
        b"[" * (deep + 1) + b"]" * (deep + 1),
        b"[" * 5000 + b"]" * 5000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ):
        with pytest.raises(BadRequest):
            from_json(body)


def test_wide_json_is_not_deep() -> None:
    assert len(from_json(b"[" + b"[]," * 5000 + b"[]]")) == 5001


@pytest.mark.parametrize(
    "text",
    [
        "global",
        "",
        "system:x",
        "6f1c0a1e4b7d4a2f9d3c111122223333",
        "{6f1c0a1e-4b7d-4a2f-9d3c-111122223333}",
        "6f1c0a1e-4b7d-4a2f-9d3c-11112222333x",
    ],
)
def test_only_the_canonical_form_is_a_workspace_id(text: str) -> None:
    with pytest.raises(BadRequest, match="invalid workspace ID"):
        workspace_uuid(text)


def test_a_workspace_id_may_be_written_in_capitals() -> None:
    assert workspace_uuid("6F1C0A1E-4B7D-4A2F-9D3C-111122223333") == UUID(
        "6f1c0a1e-4b7d-4a2f-9d3c-111122223333"
    )


@pytest.mark.parametrize("number", [1e30, 1e100, 10**30, -(10**30), 2**64, 2**63, -(2**63), 2**64 - 1])
def test_numbers_beyond_64_bits_go_out_as_numbers(number: float) -> None:
    """As the database gives them back: one must not spoil the answer that it is a part of."""
    sent = {"n": int(number), "deep": [{"m": (int(number), True, 1)}], 1: None}
    told = int(number) if -(2**63) <= number < 2**64 else float(number)
    assert json.loads(to_json(sent)) == {"n": told, "deep": [{"m": [told, True, 1]}], "1": None}
