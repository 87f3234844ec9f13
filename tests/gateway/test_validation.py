"""What a server takes from its clients."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.errors import InvalidMessage
from gateway.validation import Validation
from middleware.asgi import Event
from tests.middleware.asgi_helpers import binary, text


class Move(msgspec.Struct):
    """A typed message."""

    x: int


class Model(BaseModel):
    """A typed message of pydantic."""

    x: int


def _reason(validation: Validation, event: Event) -> str:
    with pytest.raises(InvalidMessage) as caught:
        validation.check(event)
    with pytest.raises(InvalidMessage):
        validation.decode(event)
    return caught.value.close.reason


def test_by_default_every_message_passes_as_it_is() -> None:
    """Text is handed over as str, binary as bytes, the empty one too."""
    validation = Validation()
    assert [validation.decode(event) for event in (text(""), text("a"), binary(b""), binary(b"\xff"))] == ["", "a", b"", b"\xff"]


def test_size_counts_bytes_not_characters() -> None:
    """Four letters of two bytes each do not fit into seven bytes."""
    validation = Validation(max_bytes=7)
    assert validation.decode(text("éée")) == "éée"
    assert _reason(validation, text("éééé")) == "message-too-big"


@pytest.mark.parametrize(("allow", "refused"), [("text", binary(b"x")), ("binary", text("x"))])
def test_the_kind_can_be_restricted(allow: Any, refused: Event) -> None:
    """The other kind is unsupported data, close code 1003."""
    assert _reason(Validation(allow=allow), refused) == "unsupported-data"


def test_json_is_decoded_or_refused() -> None:
    """JSON in text or binary becomes a value; anything else is a bad payload."""
    validation = Validation(json=True)
    assert validation.decode(text('{"a": [1]}')) == {"a": [1]}
    assert validation.decode(binary(b"3")) == 3
    assert _reason(validation, text("{nope")) == "bad-payload"


@pytest.mark.parametrize("kind", [Move, Model])
def test_a_type_is_enforced(kind: type) -> None:
    """A message of the type is handed over as it, any other is refused with the field that is wrong."""
    validation = Validation(message_type=kind)
    assert validation.decode(text('{"x": 3}')).x == 3
    assert _reason(validation, text('{"x": "no"}')) == "bad-payload"


@pytest.mark.parametrize("payload", ["[" * 60_000, '{"a":' * 30_000, "1" * 60_000, '{"x": ' + "9" * 5000 + "}"])
def test_hostile_json_is_an_answer_not_a_traceback(payload: str) -> None:
    """Deep nesting and huge numbers end in a decision."""
    validation = Validation(json=True)
    try:
        validation.check(text(payload))
    except InvalidMessage as error:
        assert error.close.reason == "bad-payload"
        assert len(error.detail) <= 200


@given(st.binary(max_size=60))
def test_no_payload_raises_anything_else(payload: bytes) -> None:
    """Whatever the bytes, the outcome is a value or InvalidMessage."""
    try:
        Validation(message_type=Move).check(binary(payload))
    except InvalidMessage:
        pass


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"allow": "images"}])
def test_wrong_options_are_refused_at_construction(options: dict[str, Any]) -> None:
    """A sentence says what is wrong."""
    with pytest.raises(ValueError, match="must be"):
        Validation(**options)
