"""Who is it? A JSON Web Token, or whatever a callable of yours makes of a token, becomes an immutable ``User`` in the scope.

1. Without a user nobody gets in, unless ``required=False``; a token that is wrong never gets in.
2. The token is never repeated: not in the answer, not in the selected subprotocol, not in a log line. Inner layers do not see it
   in the subprotocols or the query.
3. A cookie counts only when the origin was checked: a browser attaches it whichever page opens the socket.
4. The connection ends with ``unauthorized`` when the token expires.
"""

from __future__ import annotations

import inspect
import logging
import time
from asyncio import timeout
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from ._credentials import BadCredentials, Sources
from ._jwks import PublishedKeys
from ._jwt import FixedKey, JwtChecker, TokenError
from .asgi import ORIGIN_CHECKED, SELF_CHECK, ASGIApp
from .close import UNAUTHORIZED, UNAVAILABLE
from .layer import Guard, Layer, Link, Refuse

__all__ = ["AuthMiddleware", "User", "Verify"]

MAX_LEEWAY_SECONDS = 60.0
MAX_USER_ID_LENGTH = 256
RETRY_SECONDS = 10.0

logger = logging.getLogger("tidegate.middleware")


@dataclass(frozen=True, slots=True)
class User:
    """Who a connection belongs to.

    ``rooms`` holds the names of the rooms that the user may join, ``chat:*`` meaning all that begin with ``chat:``; ``None``
    means that nothing was said, so all. ``expires_at`` is in seconds since 1970; the connection ends then.
    """

    id: str
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False, hash=False)
    rooms: tuple[str, ...] | None = None
    expires_at: float | None = None

    def may_join(self, room: str) -> bool:
        """Whether the user may join ``room``. A star counts only at the end of a pattern."""
        if self.rooms is None:
            return True
        return any(room == name or (name.endswith("*") and room.startswith(name[:-1])) for name in self.rooms)


Verify = Callable[[str, Link], User | Awaitable[User | None] | None]
"""Judges a token; ``None`` refuses. May be a coroutine function."""


class AuthMiddleware(Layer):
    """Refuses handshakes without a valid token, with 401 ``unauthorized``, and says in the scope who the others are.

    Exactly one of ``secret``, ``public_key`` (PEM), ``jwks_url`` and ``verify`` says how a token is judged. The token is taken from
    ``Authorization: Bearer``, a subprotocol ``bearer.<token>``, with ``query_token`` from ``?token=``, or from ``cookie``.
    ``origin_checked=True`` says that something other than ``OriginMiddleware`` checks the origin in front of a cookie.

    Reports ``auth_refused_missing``, ``…_invalid``, ``…_expired``, ``…_unavailable``, ``auth_keys_fetched``, ``auth_keys_failed``.

    Raises:
        ValueError: options that contradict each other or are not safe.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        secret: str | bytes | None = None,
        public_key: str | bytes | None = None,
        jwks_url: str | None = None,
        verify: Verify | None = None,
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway_seconds: float = 10.0,
        require_exp: bool = True,
        user_claim: str = "sub",
        rooms_claim: str = "rooms",
        required: bool = True,
        subprotocol_prefix: str | None = "bearer.",
        query_token: bool = False,
        cookie: str | None = None,
        origin_checked: bool = False,
        jwks_cache_seconds: float = 300.0,
        jwks_stale_seconds: float = 3600.0,
        timeout_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(app)
        if sum(way is not None for way in (secret, public_key, jwks_url, verify)) != 1:
            raise ValueError("give exactly one of secret, public_key, jwks_url and verify")
        if verify is not None and (audience is not None or issuer is not None):
            raise ValueError("audience and issuer are checked in a JWT; with verify= that is your callable's work")
        if not 0 <= leeway_seconds <= MAX_LEEWAY_SECONDS:
            raise ValueError(f"leeway_seconds is for clocks that differ: 0 to {MAX_LEEWAY_SECONDS:g}, not {leeway_seconds:g}")
        if timeout_seconds <= 0:
            raise ValueError("timeout_seconds is positive: a handshake that waits for ever is never answered")
        if subprotocol_prefix == "" or cookie == "":
            raise ValueError("an empty name would match everything; None switches a source off")
        if origin_checked and cookie is None:
            raise ValueError("origin_checked is about a cookie, and none is named")
        self._sources = Sources(subprotocol_prefix, "token" if query_token else None, cookie)
        self._required = required
        self._origin_checked = origin_checked
        self._leeway_seconds = leeway_seconds
        self._clock = clock
        self._warned = False
        self._published = None
        if jwks_url is not None:
            self._published = PublishedKeys(
                jwks_url, cache_seconds=jwks_cache_seconds, stale_seconds=jwks_stale_seconds, timeout_seconds=timeout_seconds
            )
        self._requests_seen = (0, 0)
        self._judge: _Judge
        if verify is not None:
            self._judge = _CallableJudge(verify, timeout_seconds)
        else:
            keys = self._published or _fixed_key(secret, public_key)
            checker = JwtChecker(keys, audience=audience, issuer=issuer, leeway_seconds=leeway_seconds, require_exp=require_exp)
            self._judge = _JwtJudge(checker, user_claim, rooms_claim)

    async def open(self, link: Link) -> Guard | None:
        """Find the token, judge it, put the user into the scope and set the time of the end."""
        if link.get(SELF_CHECK) is True:
            return None
        try:
            token = self._sources.token(link.scope, link.subprotocols, cookie_counts=self._cookie_counts(link))
            guard = self._sources.hide(link)
            if token is not None:
                user = await self._judge.user(token, link)
                self._end_when_expired(user, link)
                link.set(user=user)
            elif self._required:
                raise TokenError("missing")
        except BadCredentials:
            raise _refusal(link, TokenError("invalid", "there must be one token, of printable ASCII")) from None
        except TokenError as error:
            logger.debug("refused: %s", error)
            raise _refusal(link, error) from None
        finally:
            self._report_requests(link)
        return guard

    def _cookie_counts(self, link: Link) -> bool:
        if self._sources.cookie is None or self._origin_checked or link.get(ORIGIN_CHECKED) is True:
            return True
        if not self._warned:
            self._warned = True
            logger.warning(
                "the cookie %s does not count: nobody has checked the origin. Put OriginMiddleware (without '*') outside of"
                " AuthMiddleware, or say origin_checked=True when something in front checks it",
                self._sources.cookie,
            )
        return False

    def _end_when_expired(self, user: User, link: Link) -> None:
        if user.expires_at is None:
            return
        left = user.expires_at - self._clock()
        if left <= 0:  # let in by the leeway, so it lasts as long
            left += self._leeway_seconds
        if left <= 0:
            raise TokenError("expired")
        link.close_after(left, UNAUTHORIZED)

    def _report_requests(self, link: Link) -> None:
        """Tell what the key requests since the last handshake came to."""
        if self._published is None:
            return
        now, (fetched, failed) = (self._published.fetched, self._published.failed), self._requests_seen
        if now != (fetched, failed):
            self._requests_seen = now
            link.observe("auth_keys_fetched", now[0] - fetched)
            link.observe("auth_keys_failed", now[1] - failed)


class _Judge(Protocol):
    async def user(self, token: str, link: Link) -> User:
        """Whose token it is; raises ``TokenError``."""


class _CallableJudge:
    """A callable of the app's; what it raises is its own fault, not the client's."""

    def __init__(self, verify: Verify, timeout_seconds: float) -> None:
        self._verify = verify
        self._timeout_seconds = timeout_seconds

    async def user(self, token: str, link: Link) -> User:
        try:
            async with timeout(self._timeout_seconds):
                answer = self._verify(token, link)
                user = await answer if inspect.isawaitable(answer) else answer
        except Refuse:
            raise
        except Exception:
            logger.exception("verify failed")
            raise TokenError("unavailable") from None
        if user is None:
            raise TokenError("invalid", "verify did not accept it")
        return user


class _JwtJudge:
    """A JSON Web Token, and which claim says what."""

    def __init__(self, checker: JwtChecker, user_claim: str, rooms_claim: str) -> None:
        self._checker = checker
        self._user_claim = user_claim
        self._rooms_claim = rooms_claim

    async def user(self, token: str, link: Link) -> User:
        claims = await self._checker.check(token)
        name = claims.get(self._user_claim)
        name = str(name) if type(name) is int else name
        if not isinstance(name, str) or not name or len(name) > MAX_USER_ID_LENGTH or not name.isprintable():
            raise TokenError("invalid", f"the claim {self._user_claim} names no user")
        return User(name, _frozen(claims), self._rooms(claims), _seconds(claims.get("exp")))

    def _rooms(self, claims: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The patterns; a claim that cannot be understood must not mean "all"."""
        if self._rooms_claim not in claims:
            return None
        rooms = claims[self._rooms_claim]
        if not isinstance(rooms, list) or not all(isinstance(room, str) for room in rooms):
            raise TokenError("invalid", f"the claim {self._rooms_claim} is not a list of names")
        return tuple(rooms)


def _fixed_key(secret: str | bytes | None, public_key: str | bytes | None) -> FixedKey:
    if secret is not None:
        return FixedKey.shared_secret(secret)
    assert public_key is not None, "exactly one way to judge was given"
    return FixedKey.public_key(public_key)


def _seconds(exp: Any) -> float | None:
    """``exp``, which the checker has found to be a number or to look like one."""
    try:
        return None if exp is None else float(exp)
    except OverflowError as error:
        raise TokenError("invalid", "exp is beyond all time") from error


def _frozen(value: Any) -> Any:
    """A value out of JSON that nobody can change any more."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _refusal(link: Link, error: TokenError) -> Refuse:
    """The answer: what is wrong in general; what is wrong with the token in particular is for operators alone."""
    link.observe(f"auth_refused_{error.why}")
    if error.why == "unavailable":
        return Refuse(
            503, UNAVAILABLE, detail="tokens cannot be checked at the moment", because=error.detail, retry_after=RETRY_SECONDS
        )
    detail, challenge = _ANSWERS[error.why]
    return Refuse(401, UNAUTHORIZED, detail=detail, because=error.detail, headers=[(b"www-authenticate", challenge)])


_ANSWERS = {
    "missing": ("a token is needed", b"Bearer"),
    "expired": ("the token has expired", b'Bearer error="invalid_token", error_description="expired"'),
    "invalid": ("the token is not valid", b'Bearer error="invalid_token"'),
}
"""Detail and challenge (RFC 6750 §3) for each reason to refuse a token."""
