"""``Validation``: which messages a server takes from its clients, and what it makes of them.

The rules are the server's, not the protocol's: the wire has checked framing, UTF-8 and its own size bound before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec

from middleware.asgi import Event
from middleware.close import BAD_PAYLOAD, MESSAGE_TOO_BIG, UNSUPPORTED_DATA

from .errors import InvalidMessage
from .message import Message

__all__ = ["Allow", "Validation"]

Allow = Literal["any", "text", "binary"]


class Validation:
    """Checks size, kind and, when asked for, JSON.

    Args:
        max_bytes: the largest payload; ``None`` leaves it to the wire.
        allow: ``text``, ``binary`` or ``any``.
        json: every message must be JSON; ``decode`` returns the value.
        message_type: every message must be JSON of this type: anything msgspec can decode into (a ``Struct``, a dataclass,
            ``dict[str, int]`` …) or a pydantic model. Implies ``json``.
    """

    def __init__(
        self,
        *,
        max_bytes: int | None = None,
        allow: Allow = "any",
        json: bool = False,
        message_type: Any = None,
    ) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if allow not in get_args(Allow):
            raise ValueError(f"allow must be one of {', '.join(get_args(Allow))}, not {allow!r}")
        self._max_bytes = max_bytes
        self._allow = allow
        self._parse = _parser(message_type) if json or message_type is not None else None

    def check(self, event: Event) -> Message:
        """The message in a ``websocket.receive`` event, when it keeps the rules. Raises ``InvalidMessage``."""
        message = self._checked(event)
        if self._parse is not None:
            self._parsed(self._parse, message)
        return message

    def decode(self, event: Event) -> Any:
        """As ``check``; returns text as ``str``, binary as ``bytes``, or the decoded JSON where JSON is asked for."""
        message = self._checked(event)
        return message.data if self._parse is None else self._parsed(self._parse, message)

    def _checked(self, event: Event) -> Message:
        text = event.get("text")
        message = Message(event["bytes"] if text is None else text)  # the empty message is one, too
        if self._max_bytes is not None and len(message.payload) > self._max_bytes:
            raise InvalidMessage(MESSAGE_TOO_BIG, f"a message has at most {self._max_bytes} bytes")
        if self._allow != "any" and message.is_text is not (self._allow == "text"):
            raise InvalidMessage(UNSUPPORTED_DATA, f"only {self._allow} messages are accepted")
        return message

    @staticmethod
    def _parsed(parse: Callable[[bytes], Any], message: Message) -> Any:
        try:
            return parse(message.payload)
        except ValueError as error:  # msgspec's and pydantic's errors are ValueErrors
            raise InvalidMessage(BAD_PAYLOAD, _first_line(error)) from error
        except RecursionError as error:
            raise InvalidMessage(BAD_PAYLOAD, "the JSON is nested too deeply") from error


def _parser(message_type: Any) -> Callable[[bytes], Any]:
    validate_json: Callable[[bytes], Any] | None = getattr(message_type, "model_validate_json", None)
    if validate_json is not None:
        return validate_json
    return msgspec.json.Decoder(Any if message_type is None else message_type).decode


def _first_line(error: Exception) -> str:
    """What is wrong, short and without the client's own text beyond a bound."""
    return str(error).split("\n", 1)[0][:200]
