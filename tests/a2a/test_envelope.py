"""The normal form of messages."""

from __future__ import annotations

import pytest

from a2a.envelope import message_id, normalised, text_of
from config.errors import BadRequest


def test_a_bare_message_is_wrapped_and_its_gaps_are_filled():
    envelope = normalised({"method": "message/send", "extra": 1, "params": {"message": {"parts": []}}})
    assert set(envelope) == {"jsonrpc", "id", "method", "params"}
    message = envelope["params"]["message"]
    assert (message["role"], len(message["messageId"])) == ("user", 36)


def test_an_envelope_keeps_its_id_and_unknown_keys():
    given = {"jsonrpc": "2.0", "id": 7, "method": "tasks/get", "params": {"id": "t"}, "trace": "x"}
    assert normalised(given) == given


@pytest.mark.parametrize("content", ["hi", [{"type": "text", "text": "hi"}]])
def test_content_becomes_parts_and_type_gets_its_synonym(content):
    envelope = normalised(
        {"method": "message/send", "params": {"message": {"content": content, "role": "agent"}}}
    )
    message = envelope["params"]["message"]
    assert "content" not in message
    assert message["parts"][0]["kind"] == "text"
    assert (message["role"], text_of(envelope)) == ("agent", "hi")


@pytest.mark.parametrize("body", [None, [], {}, "text", 3])
def test_what_is_no_object_is_refused(body):
    with pytest.raises(BadRequest, match="invalid JSON"):
        normalised(body)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": 5}, "invalid params.message.content type"),
        ({"role": "user"}, "params.message must contain either 'parts'"),
    ],
)
def test_a_message_without_usable_content_is_refused_with_a_hint(message, text):
    with pytest.raises(BadRequest, match=text) as refused:
        normalised({"method": "message/send", "params": {"message": message}})
    assert refused.value.fields["hint"]


def test_the_message_id_of_odd_shapes_is_none():
    assert message_id({"params": ["x"]}) is None
    assert message_id({"params": {"message": {"messageId": 4}}}) is None
