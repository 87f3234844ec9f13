"""Messages remember their frames; batches keep order; room names have rules."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRoomName
from gateway.message import MAX_ROOM_BYTES, Batch, Message, check_room, node_room, user_room


class CountingEncoder:
    def __init__(self) -> None:
        self.calls = 0

    def encode(self, payload: bytes, *, text: bool) -> tuple[int, bytes]:
        self.calls += 1
        return 0xC1 if text else 0xC2, payload[::-1]


def test_text_and_binary_differ_in_the_first_byte_of_the_frame() -> None:
    """Text is opcode 1 and bytes are opcode 2, both with FIN."""
    assert Message("hi").frame() == b"\x81\x02hi"
    assert Message(b"hi").frame() == b"\x82\x02hi"


def test_an_empty_message_is_a_message() -> None:
    """The empty text survives as an empty frame and as an event with text."""
    message = Message("")
    assert message.frame() == b"\x81\x00"
    assert message.event() == {"type": "websocket.send", "text": ""}
    assert Message(b"").event() == {"type": "websocket.send", "bytes": b""}


def test_a_frame_is_built_once_per_encoder() -> None:
    """However many recipients ask, each encoder works once for a message."""
    encoder, message = CountingEncoder(), Message("abc")
    frames = {message.frame(encoder) for _ in range(5)}
    assert frames == {b"\xc1\x03cba"}
    assert encoder.calls == 1
    assert message.frame() is message.frame()


def test_a_batch_joins_the_frames_in_order_and_once_per_encoder() -> None:
    """The blob of a batch is its messages' frames, one behind the other."""
    encoder = CountingEncoder()
    batch = Batch([Message("a"), Message(b"b")])
    assert batch.encoded(None) == (b"\x81\x01a\x82\x01b", 2)
    assert batch.encoded(encoder) is batch.encoded(encoder)
    assert encoder.calls == 2
    assert (len(batch), batch.payload_bytes) == (2, 2)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_what_travels_is_counted_after_encoding(size: int) -> None:
    """The bodies of the frames count, not their headers, whatever form the length has."""
    batch = Batch([Message(b"x" * size), Message(b"y")])
    assert batch.encoded(CountingEncoder())[1] == size + 1


class Point(msgspec.Struct):
    """Something with a JSON form."""

    x: int


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("t", "t"),
        (b"b", b"b"),
        (bytearray(b"b"), b"b"),
        (memoryview(b"b"), b"b"),
        ({"a": 1}, '{"a":1}'),
        ([1, None], "[1,null]"),
        (Point(3), '{"x":3}'),
    ],
)
def test_anything_with_a_json_form_can_be_a_message(value: object, data: str | bytes) -> None:
    """Text and bytes go as they are, everything else as JSON text."""
    assert Message.of(value).data == data


def test_what_has_no_json_form_is_a_type_error() -> None:
    """The caller learns it at once, not the client."""
    with pytest.raises(TypeError):
        Message.of(object())


@pytest.mark.parametrize("name", ["a", "chat:42", "ümlaut", "日本", "a.b*>c", "{tag}", "x" * MAX_ROOM_BYTES, "..a", " "])
def test_ordinary_names_are_rooms(name: str) -> None:
    """What has no rule against it is allowed, wildcards of brokers included."""
    assert check_room(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 256,
        "é" * 128,
        "~user/1",
        "~",
        "a/b",
        "../x",
        ".",
        "..",
        "a\x00b",
        "a\nb",
        "a\x7f",
        "a\x85",
        "a\ufffd",
        "\u2028",
    ],
)
def test_hostile_names_are_refused_with_a_sentence(name: str) -> None:
    """Empty, too long, reserved, with control characters, with a slash, or not decodable."""
    with pytest.raises(InvalidRoomName, match="room name"):
        check_room(name)


@given(st.text(max_size=300))
def test_checking_a_name_never_fails_in_another_way(name: str) -> None:
    """Any text is either a room's name or refused."""
    try:
        assert check_room(name) == name
    except InvalidRoomName:
        pass


def test_users_and_nodes_are_rooms_that_no_client_can_name() -> None:
    """Internal rooms begin with a tilde, which clients may not use."""
    for internal in (user_room("7"), node_room("ab")):
        with pytest.raises(InvalidRoomName):
            check_room(internal)
