"""``Composed``: the hooks of two drivers on one connection, as one."""

from __future__ import annotations

from middleware.asgi import Event, Hooks

__all__ = ["Composed"]


class Composed(Hooks):
    """``outer`` first on the way in, ``inner`` first on the way out."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: Hooks, inner: Hooks) -> None:
        self._outer = outer
        self._inner = inner

    def accepting(self, event: Event) -> Event:
        return self._outer.accepting(self._inner.accepting(event))

    def inbound(self, event: Event) -> Event | None:
        passed = self._outer.inbound(event)
        if passed is None:
            return None
        handed_on = self._inner.inbound(passed)
        if handed_on is None:
            self._outer.waiting()  # nobody handles what the inner ones dropped
        return handed_on

    def outbound(self, event: Event) -> Event | None:
        passed = self._inner.outbound(event)
        return None if passed is None else self._outer.outbound(passed)

    def waiting(self) -> None:
        self._inner.waiting()
        self._outer.waiting()
