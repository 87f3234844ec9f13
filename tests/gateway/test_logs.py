"""``gateway.logs``: one line per event, no secrets, every library through the same chain."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.logs import REDACTED, configure_logging, redact_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Other tests find logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was written as JSON, one object per line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def logged(log_format: str = "json", **fields: Any) -> str:
    """What one event with these fields writes."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream=stream)
    structlog.get_logger("tidegate.test").info("connection closed", **fields)
    return stream.getvalue()


def test_json_events_carry_time_level_logger_and_fields() -> None:
    """A JSON event is one object with timestamp, level, logger, event and the given fields."""
    (event,) = (json.loads(line) for line in logged(code=1000, seconds=1.5).splitlines())
    assert event["event"] == "connection closed"
    assert event["level"] == "info"
    assert event["logger"] == "tidegate.test"
    assert event["timestamp"].endswith("Z")
    assert (event["code"], event["seconds"]) == (1000, 1.5)


def test_auto_asks_the_stream() -> None:
    """``auto`` writes for people at a terminal and JSON elsewhere."""
    terminal, pipe = Terminal(), io.StringIO()
    configure_logging("info", "auto", stream=terminal)
    logging.getLogger("x").info("hello")
    configure_logging("info", "auto", stream=pipe)
    logging.getLogger("x").info("hello")
    assert not terminal.getvalue().startswith("{")
    assert events(pipe)[0]["event"] == "hello"


def test_a_second_call_replaces_the_first() -> None:
    """Configuring twice writes each event once, to the newer stream."""
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", "json", stream=first)
    configure_logging("info", "json", stream=second)
    logging.getLogger("x").info("hello")
    assert first.getvalue() == ""
    assert len(events(second)) == 1


def test_the_level_holds_for_structlog_and_stdlib_alike() -> None:
    """Events below the level are not written."""
    stream = io.StringIO()
    configure_logging("warning", "json", stream=stream)
    structlog.get_logger("a").info("no")
    logging.getLogger("b").info("no")
    structlog.get_logger("a").warning("yes")
    logging.getLogger("b").warning("yes")
    assert [event["logger"] for event in events(stream)] == ["a", "b"]


@pytest.mark.parametrize("arguments", [("loud", "json"), ("info", "xml")])
def test_wrong_arguments_are_refused(arguments: tuple[str, str]) -> None:
    """An unknown level or format is a ValueError."""
    with pytest.raises(ValueError, match=r"loud|xml"):
        configure_logging(*arguments)


def test_uvicorn_and_extra_fields_pass_through_the_same_chain() -> None:
    """uvicorn's loggers lose their own handlers, their coloured copy of the message, and keep their extra fields."""
    stream = io.StringIO()
    logging.getLogger("uvicorn.access").addHandler(logging.NullHandler())
    configure_logging("info", "json", stream=stream)
    logging.getLogger("uvicorn.access").info('%s - "GET %s"', "10.0.0.9", "/x?token=abc", extra={"color_message": "c", "n": 7})
    (event,) = events(stream)
    assert event["event"] == f'10.0.0.9 - "GET /x?token={REDACTED}"'
    assert event["n"] == 7
    assert "color_message" not in event


def test_debug_does_not_open_the_libraries_that_dump_the_wire() -> None:
    """At level debug the websockets library's frame dumps stay out."""
    stream = io.StringIO()
    configure_logging("debug", "json", stream=stream)
    logging.getLogger("websockets.server").debug("< TEXT 'password is hunter2'")
    logging.getLogger("tidegate").debug("ours")
    assert [event["event"] for event in events(stream)] == ["ours"]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"token": "hunter2"},
        {"api_key": b"hunter2"},
        {"headers": {"Authorization": "Bearer hunter2", "Set-Cookie": "s=hunter2"}},
        {"headers": [(b"cookie", b"s=hunter2"), (b"host", b"x")]},
        {"deep": {"list": [{"auth_secret": ["hunter2"]}]}},
        {"path": "/ws/a?room=1&access_token=hunter2&x=2"},
        {"url": "/ws?api_key=hunter2"},
        {"url": "redis://me:hunter2@host:6379/0"},
        {"protocols": ["chat", "bearer.hunter2"]},
        {"text": "Authorization: hunter2"},
    ],
)
def test_secrets_are_redacted_wherever_they_stand(fields: dict[str, Any], log_format: str) -> None:
    """Nothing of a secret is written, whichever field it came in."""
    text = logged(log_format, **fields)
    assert "hunter2" not in text
    assert "redacted" in text


def test_a_jwt_is_known_by_its_shape() -> None:
    """A token is removed from running text although nothing names it."""
    assert redact_text(f"could not use {JWT} here") == f"could not use {REDACTED} here"


def test_harmless_fields_stay() -> None:
    """Names and texts that only resemble secrets are left alone."""
    (event,) = (json.loads(line) for line in logged(tokens_left=5, key="a", path="/ws/token?x=1", query_token=True).splitlines())
    assert event["tokens_left"] == 5
    assert event["key"] == "a"
    assert event["path"] == "/ws/token?x=1"
    assert event["query_token"] is True


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(text=st.text() | st.sampled_from(["a\r\nlevel=error forged", "\x1b[2J", "\x9b31m", "\u2028x", "\u202ereverse", "\x00"]))
def test_one_event_is_one_line_without_control_characters(log_format: str, text: str) -> None:
    """Whatever a client sends, an event is one line and holds no control character."""
    written = logged(log_format, room=text, nested={"reason": [text]})
    assert written.endswith("\n")
    line = written[:-1]
    assert len(line.splitlines()) == 1
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in line)
    line.encode()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_are_redacted_and_cannot_pass_for_events(log_format: str) -> None:
    """A traceback stays within its event: one line in JSON, indented lines on the console; secrets in it are removed."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream=stream)
    try:
        raise RuntimeError("first\nsecond ?token=hunter2 \x1b[0m")
    except RuntimeError:
        structlog.get_logger("x").exception("it failed")
        logging.getLogger("y").exception("it failed")
    lines = stream.getvalue().splitlines()
    assert "hunter2" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    if log_format == "json":
        assert len(lines) == 2
        assert all("RuntimeError" in json.loads(line)["exception"] for line in lines)
    else:
        assert sum(not line.startswith("    | ") for line in lines) == 2
        assert any("RuntimeError" in line for line in lines)


def test_the_weight_of_an_event_is_bounded() -> None:
    """A huge value is cut and says how long it was; deep nesting ends."""
    nested: Any = "x" * 5_000
    for _ in range(50):
        nested = {"n": nested}
    written = logged(big="y" * 1_000_000, nested=nested)
    assert len(written) < 6_000
    assert "1,000,000 characters" in written


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a", "?a", "&token", "eyJaaaaa", "-eyJaaaaa", "eyJaaaaa.", "bearer ", "cookie: ", "://a", "://a:"]
)
def test_no_text_makes_redaction_hang(piece: str) -> None:
    """64 KB of the patterns' worst prefixes are gone through at once (no nested quantifier, no unbounded second look)."""
    assert redact_text("?" + piece * (65_536 // len(piece)))


def test_nothing_is_set_up_on_import() -> None:
    """Importing the module installs no handler."""
    assert "gateway.logs" in sys.modules
    assert not any(type(handler).__module__ == "gateway.logs" for handler in logging.getLogger().handlers)


@pytest.mark.parametrize(
    "text",
    [
        "/ws?token=abc",
        "Bearer abc.def",
        "basic abc",
        "eyJhbGciOiJIUzI1NiJ9.e30.x",
        "Cookie: a",
        "x-api-key = s",
        "redis://u:p@h",
        "AUTHORIZATION: x",
    ],
)
def test_no_kind_of_secret_slips_past_the_quick_look(text: str) -> None:
    """What is told apart first by a sign of a secret is redacted all the same."""
    assert redact_text(text) != text


JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40)
TEXTS = st.sampled_from(
    ["/ws/lobby", "user@example.com", "?token=hunter2", "Bearer hunter2", f"x {JWT}", "\x7f", "\u2028", "\ud800", "é", "z" * 3000]
)
NAMES = st.sampled_from(["path", "user", "token", "api_key", "headers", "level", "color_message"]) | st.text("abc", min_size=1)
NESTED = st.lists(TEXTS | JSON_VALUES, max_size=2) | st.dictionaries(NAMES, TEXTS, max_size=2) | st.binary(max_size=5)


def json_formatter(stream: io.StringIO) -> structlog.stdlib.ProcessorFormatter:
    """What makes lines for ``stream``."""
    configure_logging("info", "json", stream=stream)
    formatter = logging.getLogger().handlers[-1].formatter
    assert isinstance(formatter, structlog.stdlib.ProcessorFormatter)
    return formatter


@settings(max_examples=300, deadline=None)
@given(event=TEXTS | st.text(max_size=40), fields=st.dictionaries(NAMES, TEXTS | JSON_VALUES | NESTED, max_size=4))
def test_what_is_written_at_once_is_what_the_chain_writes(event: str, fields: dict[str, Any]) -> None:
    """Both ways to a line say the same, and in neither is a secret."""
    formatter = json_formatter(io.StringIO())
    record = logging.getLogger("x").makeRecord("x", logging.INFO, "", 0, event, (), None, extra=fields)
    quick, chain = formatter.format(record), structlog.stdlib.ProcessorFormatter.format(formatter, record)
    assert quick.isascii()
    assert quick.isprintable()
    assert {**json.loads(quick), "timestamp": ""} == {**json.loads(chain), "timestamp": ""}
    assert list(json.loads(quick)) == list(json.loads(chain))
    assert "hunter2" not in quick
    assert JWT not in quick


def test_an_event_of_a_connection_is_written_at_once() -> None:
    """The chain is left out where nothing in the event could need it: that is most of what a busy gateway writes."""
    stream = io.StringIO()
    json_formatter(stream).processors = ()  # whoever takes the chain now fails
    fields = {
        "connection_id": "a-1",
        "path": "/ws/lobby",
        "origin": "https://example.com",
        "close_code": 1000,
        "duration_seconds": 0.1,
    }
    logging.getLogger("tidegate.access").info("websocket.closed", extra=fields)
    (event,) = events(stream)
    assert event.items() >= {**fields, "event": "websocket.closed", "logger": "tidegate.access"}.items()
    assert abs(datetime.fromisoformat(event["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
