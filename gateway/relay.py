"""The raw dialect's room handler: every message goes to the other members of the room in the path.

``?echo=1`` on the connection's address: the sender hears its own messages too. Nothing of a message is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from middleware.asgi import Event

from .connection import Connection
from .errors import BrokerUnavailable, InvalidMessage
from .message import Message

if TYPE_CHECKING:
    from .validation import Validation

__all__ = ["RoomRelay"]

Post = Callable[[str, Message, str], None]


class RoomRelay:
    """Relays inside a room. ``bind`` serves a connection synchronously, straight from the parser, where the server can.

    Args:
        post: publishes ``(room, message, exclude)`` without waiting; raises ``BrokerUnavailable``.
        validation: the server's rules for messages.
        on_refused: told when the broker did not take a message.
    """

    def __init__(self, post: Post, validation: Validation, on_refused: Callable[[str], None]) -> None:
        self._post = post
        self._validation = validation
        self._on_refused = on_refused

    def bind(self, connection: Connection) -> Callable[[Event], None]:
        """What is to be called with every ``websocket.receive`` event of ``connection``."""
        room = connection.scope["path_params"]["room"]
        exclude = "" if wants_echo(connection.scope.get("query_string", b"")) else connection.id
        post, check = self._post, self._validation.check

        def on_message(event: Event) -> None:
            try:
                post(room, check(event), exclude)
            except InvalidMessage as error:
                connection.close(error.close)
            except BrokerUnavailable:
                self._on_refused(room)

        return on_message

    async def __call__(self, connection: Connection) -> None:
        """The same under a server without the frames extension."""
        on_message = self.bind(connection)
        while True:
            on_message(await connection.receive_event())


def wants_echo(query_string: bytes) -> bool:
    """True when the query has ``echo=1`` (or ``true``)."""
    return any(part in (b"echo=1", b"echo=true") for part in query_string.split(b"&"))
