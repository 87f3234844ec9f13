"""``WireOptions`` and ``server_frame``: values that say what they mean."""

from __future__ import annotations

import dataclasses

import pytest
from websockets.frames import Frame, Opcode

from gateway.frame import TEXT, server_frame
from gateway.wire import WireOptions, WireProtocol, http_protocol, wire_protocol


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_message_bytes", 0), ("inbound_messages", 0), ("turn_seconds", 0.0), ("ping_interval_seconds", -1.0),
        ("deflate_level", 0), ("deflate_level", 10), ("reserved_descriptors", -1), ("abort_after_seconds", 1.0),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_with_a_sentence(name: str, value: float) -> None:
    """At construction, naming the option."""
    with pytest.raises(ValueError, match=name):
        WireOptions(**{name: value})  # type: ignore[arg-type]


def test_options_are_frozen_and_belong_to_a_class() -> None:
    """Two listeners, two classes, two admissions."""
    options = WireOptions(max_message_bytes=10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_message_bytes = 11  # type: ignore[misc]
    one, two = wire_protocol(options), wire_protocol(WireOptions())
    assert one.options is options
    assert WireProtocol.options == two.options
    assert one.admission is not two.admission
    assert http_protocol(options, one).admission is one.admission
    assert http_protocol(options).admission is not one.admission


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_a_server_frame_is_what_rfc_6455_says(size: int) -> None:
    """The three lengths of §5.2, not masked."""
    assert server_frame(TEXT, bytes(size)) == Frame(Opcode.TEXT, bytes(size)).serialize(mask=False)
