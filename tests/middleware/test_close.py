"""The named endings and how others' closes are mapped onto them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from middleware import close as endings
from middleware.close import (
    ABNORMAL,
    FORBIDDEN,
    GOING_AWAY,
    IDLE,
    NAMED,
    NORMAL,
    OTHER,
    PING_TIMEOUT,
    RATE_LIMITED,
    UNAUTHORIZED,
    Close,
)


def test_every_ending_is_found_by_its_slug() -> None:
    """The closed set that labels, log fields and runbooks are named by holds every constant of the module, once."""
    constants = [value for value in vars(endings).values() if isinstance(value, Close)]
    assert sorted(NAMED) == sorted(close.reason for close in constants)
    assert len(set(NAMED)) == len(constants)


@pytest.mark.parametrize("close", NAMED.values(), ids=NAMED)
def test_an_ending_that_travels_is_recognised(close: Close) -> None:
    """Code and reason together name the very same ending at the other side."""
    assert Close.received(close.code, close.reason) is close


@pytest.mark.parametrize("close", NAMED.values(), ids=NAMED)
def test_every_ending_fits_a_close_frame(close: Close) -> None:
    """Slugs are short ASCII; only the ending that stands for no close frame has a code that is never sent."""
    assert close.reason.isascii()
    assert close.reason == close.reason.lower()
    assert close.sendable is (close is not ABNORMAL)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (None, None, NORMAL),
        (1000, "", NORMAL),
        (1005, "", NORMAL),
        (1001, "", GOING_AWAY),
        (1001, "idle", IDLE),
        (1006, "", ABNORMAL),
        (1008, "", FORBIDDEN),
        (1008, "rate-limited", RATE_LIMITED),
        (1000, "rate-limited", NORMAL),
        (1011, "ping-timeout", PING_TIMEOUT),
        (3999, "whatever", OTHER),
        (4999, None, OTHER),
        (4401, "token gone", UNAUTHORIZED),
    ],
)
def test_what_a_peer_says_is_mapped_onto_the_closed_set(code: int | None, reason: str | None, expected: Close) -> None:
    """A known reason counts only with its own code; else the code alone decides."""
    assert Close.received(code, reason) is expected


@given(code=st.none() | st.integers(), reason=st.none() | st.text())
def test_no_peer_can_add_to_the_set(code: int | None, reason: str | None) -> None:
    """Whatever arrives, the result is one of ours: a label with it has a bounded number of values."""
    assert Close.received(code, reason) in NAMED.values()


@given(status=st.integers(100, 999))
def test_a_refusals_status_names_an_ending_and_back(status: int) -> None:
    """Every status stands for an ending of the set, whose own status is of the same kind: 4xx for 4xx, 5xx for 5xx."""
    ending = Close.for_status(status)
    assert ending in NAMED.values()
    if 400 <= status <= 599:
        assert ending.status // 100 == status // 100


@pytest.mark.parametrize(("code", "reason"), [(999, "x"), (5000, "x"), (0, ""), (4000, "x" * 124), (4000, "ä" * 62)])
def test_what_no_close_frame_can_carry_is_an_error(code: int, reason: str) -> None:
    """Codes are 1000 to 4999, a reason has at most 123 bytes (RFC 6455 §5.5, §7.4)."""
    with pytest.raises(ValueError, match="close"):
        Close(code, reason)


def test_an_ending_is_a_value() -> None:
    """Equal by content, usable as a key, not to be changed."""
    assert Close(4002, "mine") == Close(4002, "mine")
    assert {Close(4002, "mine"): 1}[Close(4002, "mine")] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        NORMAL.code = 1001  # type: ignore[misc]
