"""Small clients for the command line: publish over HTTP, listen to a room, ask for health. Nothing of the server is imported.

``listen`` is also the model of how a client of ours should behave: it comes back after an ending that allows it, later and
later and not in step with the others (exponential backoff with full jitter), never sooner than ``Retry-After`` asks, and
stays away after an ending that says the next attempt would end the same way (``Close.retry``).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from middleware.close import Close

from .client_http import ClientError, Reply, healthy, is_refused, publish, reason_of, request

__all__ = ["Backoff", "ClientError", "Ended", "Reply", "healthy", "listen", "publish", "reason_of", "request", "room_url"]

LARGEST_MESSAGE_BYTES = 16 << 20
STEADY_SECONDS = 10.0
"""A connection that lasted so long was a success: the next attempt waits as little as the first."""
LEAST_WAIT_SECONDS = 0.1
"""However the dice fall: who comes back at once finds what it left."""
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

Say = Callable[[str], None]


class Ended(ClientError):
    """The room cannot be listened to any more, and trying again would not help."""


def room_url(base: str, room: str, *, echo: bool = False) -> str:
    """The WebSocket address of a room of the gateway at ``base``."""
    return f"{base.rstrip('/')}/ws/{quote(room, safe='')}" + ("?echo=1" if echo else "")


class Backoff:
    """How long to wait before the next attempt, in seconds: anywhere up to a bound that doubles each time (full jitter)."""

    def __init__(self, *, first_seconds: float = 0.5, most_seconds: float = 30.0, rng: Callable[[], float] = random.random) -> None:
        if not 0 < first_seconds <= most_seconds:
            raise ValueError("first_seconds must be above 0 and at most most_seconds")
        self._first = self._bound = first_seconds
        self._most = most_seconds
        self._rng = rng

    def next_seconds(self, at_least: float = 0.0) -> float:
        """The next wait; never less than ``at_least``, what a server asked for, and still spread above it."""
        wait = at_least + max(LEAST_WAIT_SECONDS, self._bound * self._rng())
        self._bound = min(self._most, self._bound * 2)
        return wait

    def reset(self) -> None:
        """The last attempt was a success."""
        self._bound = self._first


async def listen(
    url: str,
    *,
    token: str | None = None,
    backoff: Backoff | None = None,
    say: Say = lambda text: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[str | bytes, None]:
    """Messages of the room at ``url``, through any number of connections; ``say`` is told what happens to them.

    Raises:
        Ended: refused, or ended in a way that trying again would repeat.
    """
    backoff = backoff or Backoff()
    clock = asyncio.get_running_loop().time
    has_hinted = False
    while True:
        at_least = 0.0
        try:
            connection = await _connect(url, token)
        except _Later as later:
            why, at_least = str(later), later.seconds
            if later.hint and not has_hinted:  # once will do
                why, has_hinted = f"{why}; {later.hint}", True
        else:
            has_hinted = True
            say(f"connected to {url}")
            started = clock()
            try:
                while True:
                    yield await connection.recv()
            except ConnectionClosed as closed:
                why = _ending(closed)
            finally:
                await connection.close()  # `async with` would call it an error when the caller has had enough
            if clock() - started >= STEADY_SECONDS:
                backoff.reset()
        wait = backoff.next_seconds(at_least)
        say(f"{why}; again in {wait:.1f} s")
        await sleep(wait)


class _Later(Exception):
    """This attempt failed; another may not, after ``seconds``, or after what the ``hint`` asks for."""

    def __init__(self, text: str, seconds: float = 0.0, hint: str = "") -> None:
        super().__init__(text)
        self.seconds = seconds
        self.hint = hint


_NOT_HERE = " (is this the public listener? --url is its address alone: ws://127.0.0.1:8000; the room is put behind it)"


async def _connect(url: str, token: str | None) -> ClientConnection:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return await connect(url, additional_headers=headers, max_size=LARGEST_MESSAGE_BYTES, compression=None, proxy=None)
    except InvalidStatus as refused:
        response = refused.response
        text = "refused: " + Reply(response.status_code, bytes(response.body or b"")).detail()
        if response.status_code not in RETRYABLE_STATUSES:
            raise Ended(text + _NOT_HERE if _is_elsewhere(text, url) else text) from None
        raise _Later(text, _retry_after(response.headers.get("Retry-After"))) from None
    except InvalidURI:
        raise Ended(f"{url} is not a ws:// or wss:// address") from None
    except ssl.SSLCertVerificationError as error:
        raise Ended(f"the certificate is not good: {error.verify_message}") from None
    except (OSError, InvalidHandshake) as error:
        hint = "is the gateway running (--url)?" if is_refused(error) else ""
        raise _Later(f"no connection: {reason_of(error)}", hint=hint) from None


def _is_elsewhere(refusal: str, url: str) -> bool:
    """Whether a refusal looks like that of another listener (without a word of ours), or of an address with a room too many."""
    return refusal.startswith(("refused: 400 Bad Request", "refused: 404")) or url.count("/ws/") > 1


def _retry_after(value: str | None) -> float:
    """Seconds a server asked to wait; a date or nonsense counts as nothing, and nobody makes us wait more than an hour."""
    return min(3600.0, float(value)) if value and value.isascii() and value.isdigit() else 0.0


def _ending(closed: ConnectionClosed) -> str:
    """What ended the connection, when another may do better.

    Raises:
        Ended: it would end the same way.
    """
    close = Close.received(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else Close.received(1006)
    code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
    text = f"closed by the server: {code} {reason or close.reason}"
    if not close.retry:
        raise Ended(text)
    return text
