"""The raw dialect's room handler: every message goes to the other members of the room in the path.

``?echo=1`` on the connection's address: the sender hears its own messages too. Nothing of a message is looked at.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING

from middleware.asgi import Event, Frames
from middleware.close import INTERNAL_ERROR

from .connection import Connection
from .errors import BrokerUnavailable, InvalidMessage
from .message import Message

if TYPE_CHECKING:
    from .validation import Validation

__all__ = ["RoomRelay"]

LOG_EVERY_SECONDS = 10.0

logger = logging.getLogger("tidegate.relay")

Post = Callable[[str, Message, str], None]


class RoomRelay:
    """Relays inside a room. ``bind`` serves a connection synchronously, straight from the parser, where the server can.

    Args:
        post: publishes ``(room, message, exclude)`` without waiting; raises ``BrokerUnavailable``.
        validation: the server's rules for messages.
        behind: rooms that have gathered too much, and what is to be called when they have caught up (``Turns.behind``).

    A client whose room is behind is not parsed any further: its message waits here, one per client, and the others on its socket.
    What the broker does not take is counted by whoever posts, and logged at most once in ``LOG_EVERY_SECONDS``: a raw client has
    no way to be told about one message, and closing everybody because the broker is away would only make things worse.
    """

    def __init__(self, post: Post, validation: Validation, behind: Mapping[str, deque[Callable[[], None]]]) -> None:
        self._post = post
        self._validation = validation
        self._behind = behind
        self._log_after = 0.0

    def bind(self, connection: Connection) -> Callable[[Event], None]:
        """What is to be called with every ``websocket.receive`` event of ``connection``."""
        room = connection.scope["path_params"]["room"]
        exclude = "" if wants_echo(connection.scope.get("query_string", b"")) else connection.id
        post, check, behind, frames = self._post, self._validation.check, self._behind, connection.frames

        def on_message(event: Event) -> None:
            try:
                message = check(event)
                if behind and frames is not None and room in behind:
                    wait(message, frames)
                else:
                    post(room, message, exclude)
            except InvalidMessage as error:
                connection.close(error.close)
            except BrokerUnavailable as error:
                self._refused(error)

        def wait(message: Message, frames: Frames) -> None:
            frames.pause()
            context = copy_context()  # the trace that the message belongs to
            behind[room].append(lambda: context.run(go_on, message, frames))

        def go_on(message: Message, frames: Frames) -> None:
            try:
                post(room, message, exclude)
            except BrokerUnavailable as error:
                self._refused(error)
            except Exception:  # this client's end, as it would be in the parser, and nobody else's
                logger.exception("a message that had waited could not be relayed")
                connection.close(INTERNAL_ERROR)
            frames.resume()

        return on_message

    def _refused(self, error: BrokerUnavailable) -> None:
        now = time.monotonic()
        if now >= self._log_after:
            self._log_after = now + LOG_EVERY_SECONDS
            logger.warning("messages of clients are lost, the broker does not take them: %s", error)

    async def __call__(self, connection: Connection) -> None:
        """The same under a server without the frames extension."""
        on_message = self.bind(connection)
        while True:
            on_message(await connection.receive_event())


def wants_echo(query_string: bytes) -> bool:
    """True when the query has ``echo=1`` (or ``true``)."""
    return any(part in (b"echo=1", b"echo=true") for part in query_string.split(b"&"))
