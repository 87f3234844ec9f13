"""Logging set-up: one structlog chain for the gateway's own events and for every library that logs through the standard module.

1. One event is one line: control characters never leave as themselves (CWE-117); only a traceback, and only on the console,
   takes more lines, each indented so that none can pass for an event.
2. No secret is written: values of keys that name one, ``?token=…`` in addresses, ``Bearer …``, JWTs and passwords in URLs are
   replaced, wherever in an event they stand.
3. What one event may weigh is bounded.
4. An event of plain values whose whole line has no sign of a secret is written as it is (``_harmless_line``); every other one,
   and every one for people, takes the chain. Both write the same (property-tested).

Events go to standard error. Nothing here starts before ``configure_logging`` is called: a library sets up no logging.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .visible import visible

__all__ = ["REDACTED", "configure_logging", "escape_controls", "redact", "redact_text", "writes_json"]

REDACTED = "[redacted]"
LONGEST_TEXT = 2_000
LONGEST_TRACEBACK = 20_000
DEEPEST = 6
CHATTY = ("websockets", "httpx", "httpcore", "urllib3", "hpack")
"""Libraries whose debug output holds headers and payloads."""

_SECRET_NAMES = r"(?:token|authorization|secret|cookie|password|passwd|jwt|credentials?|(?:api|private|access)[_-]?key)"  # noqa: S105 - names, no secret
_SECRET_KEY = re.compile(rf"(?:^|[_.\-\s]){_SECRET_NAMES}$", re.IGNORECASE)
_SECRET_TEXT = (
    (re.compile(rf"([?&;][\w.%-]{{0,64}}?{_SECRET_NAMES}=)[^&;#\s\"']*", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"\b(bearer[ .]|basic )[\w.~+/=-]+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"\beyJ[\w-]{5,512}\.[\w-]{1,8192}\.[\w-]*"), REDACTED),
    (re.compile(r"(\b(?:authorization|cookie|x-api-key)\s*[:=]\s*)(?!\[redacted)[^\r\n]+", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"(://)[^/?#@\s\"']{1,256}@"), rf"\1{REDACTED}@"),
)
_SIGNS = ("token", "authorization", "secret", "cookie", "passw", "jwt", "credential", "key", "bearer", "basic", "eyj", "@")
"""In lower case, what each of the patterns and each name of a secret needs at least one of; most texts have none of it."""
_PLAIN = frozenset((str, int, float, bool, type(None)))
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__)
_encode = msgspec.json.Encoder().encode


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second call replaces it and leaves others alone."""


def configure_logging(level: str = "info", log_format: str = "auto", *, stream: TextIO | None = None) -> None:
    """Send every event from ``level`` up to ``stream`` (standard error), as ``json`` or ``console``; ``auto`` asks the stream.

    Raises:
        ValueError: no such level or format.
    """
    target = sys.stderr if stream is None else stream
    if log_format not in ("auto", "json", "console"):
        raise ValueError(f"log_format is auto, json or console, not {log_format!r}")
    threshold = logging.getLevelNamesMapping().get(level.upper())
    if threshold is None:
        raise ValueError(f"there is no log level {level!r}")
    as_json = log_format == "json" or (log_format == "auto" and not target.isatty())
    handler = _Handler(target)
    handler.setFormatter(_formatter(as_json=as_json, colors=target.isatty()))
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # asked for every event, written in none
    root = logging.getLogger()
    for previous in [previous for previous in root.handlers if isinstance(previous, _Handler)]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(threshold)
    _adopt_libraries(threshold)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_stamps(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def writes_json() -> bool:
    """Whether events are written for machines; false, too, as long as nobody has set up logging."""
    return any(isinstance(handler.formatter, _JsonFormatter) for handler in logging.getLogger().handlers)


def _adopt_libraries(threshold: int) -> None:
    """Take uvicorn's own handlers away, and keep wire dumps out of the log."""
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.INFO))


def _stamps() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _formatter(*, as_json: bool, colors: bool) -> logging.Formatter:
    writing: list[Processor] = (
        [structlog.processors.JSONRenderer(serializer=_json)] if as_json else [escape_controls, _Console(colors=colors)]
    )
    return (_JsonFormatter if as_json else structlog.stdlib.ProcessorFormatter)(
        foreign_pre_chain=[*_stamps(), structlog.stdlib.ExtraAdder(), _drop_colored_copy],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            *writing,
        ],
    )


class _JsonFormatter(structlog.stdlib.ProcessorFormatter):
    """The chain, for events that need it."""

    def format(self, record: logging.LogRecord) -> str:
        return _harmless_line(record) or super().format(record)


def _harmless_line(record: logging.LogRecord) -> str | None:
    """The line of an event of the standard module that the chain would not change anything of; ``None`` for any other.

    The line has everything that is in the event, so looking for signs of secrets in it once is looking for them everywhere.
    """
    if record.exc_info or record.stack_info or not isinstance(record.msg, str):
        return None
    event: dict[str, Any] = {
        "event": record.getMessage(),
        "level": record.levelname.lower(),
        "logger": record.name,
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
    }
    event |= {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
    event.pop("color_message", None)
    if not _PLAIN.issuperset(map(type, event.values())):
        return None
    try:
        line = _encode(event).decode()
    except UnicodeEncodeError:  # half a surrogate pair
        return None
    if len(line) > LONGEST_TEXT or "\x7f" in line or _may_hold_secret(line):  # the one control character that JSON does not escape
        return None
    return line


def _json(event: EventDict, **_options: Any) -> str:
    """One line of printable ASCII: everything else is escaped."""
    return json.dumps(event, separators=(",", ":"))


def _drop_colored_copy(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """uvicorn sends every message twice, once with terminal colours."""
    event.pop("color_message", None)
    return event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: replace secrets in all values, however nested, and cut what is too long."""
    return {str(key): _clean(str(key), value, 0) for key, value in event.items()}


def redact_text(text: str) -> str:
    """``text`` without tokens, keys and passwords."""
    if _may_hold_secret(text):
        for pattern, replacement in _SECRET_TEXT:
            text = pattern.sub(replacement, text)
    return text


def _may_hold_secret(text: str) -> bool:
    """Beyond ASCII always: there, letters that look nothing alike are one to who ignores case."""
    if not text.isascii():
        return True
    lowered = text.lower()
    for sign in _SIGNS:  # noqa: SIM110 - any() takes twice as long
        if sign in lowered:
            return True
    return False


@lru_cache(maxsize=1024)
def _names_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _clean(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if _names_secret(key):
        return REDACTED
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping) and depth < DEEPEST:
        return {_text(name): _clean(_text(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth < DEEPEST:
        return _clean_items(key, list(value), depth)
    return _cut(_text(value), LONGEST_TRACEBACK if key == "exception" else LONGEST_TEXT)


def _cut(text: str, bound: int) -> str:
    """At most ``bound`` characters without secrets; a huge text costs no more work than a long one."""
    if len(text) <= bound:
        return redact_text(text)
    return redact_text(text[: bound + 512])[:bound] + f"… ({len(text):,} characters)"


def _clean_items(key: str, items: list[Any], depth: int) -> list[Any]:
    """A list; a pair that starts with a name, as headers are kept in ASGI, is judged by that name."""
    if len(items) == 2 and isinstance(items[0], str | bytes) and _names_secret(_text(items[0])):
        return [_text(items[0]), REDACTED]
    return [_clean(key, item, depth + 1) for item in items]


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes | bytearray) else str(value)


def escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor: make control characters visible, in all texts but the traceback, whose lines ``_Console`` indents."""
    return {_escape(key): (value if key == "exception" else _escape(value)) for key, value in event.items()}


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_escape(key): _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list) else value


class _Console:
    """structlog's console line, with the traceback indented under it."""

    def __init__(self, *, colors: bool) -> None:
        self._line = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        traceback = str(event.pop("exception", ""))
        lines = [str(self._line(logger, method, event))]
        lines += [f"    | {visible(line)}" for line in re.split(r"[\r\n]+", traceback) if line]
        return "\n".join(lines)
