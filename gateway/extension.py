"""Finds the frames extension for a connection that a framework has already handed on.

Frames may only be written past ``send`` when nobody between the server and the app changes what is sent. Starlette (and
FastAPI through it) puts one wrapper around every route's ``send`` that only watches for HTTP responses; it is recognised
and looked through. Any other wrapper, known or not, means ``None``: the connection then works through ``send``, more slowly.
"""

from __future__ import annotations

from typing import Any

from middleware.asgi import FRAMES_EXTENSION, Frames, Receive, Scope, Send

__all__ = ["frames_of"]

_STARLETTE_SENDER = ("starlette._exception_handler", "wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender")


def frames_of(scope: Scope, receive: Receive, send: Send) -> Frames | None:
    """The connection's frames extension, when ``receive`` and ``send`` are the server's own."""
    frames: Frames | None = (scope.get("extensions") or {}).get(FRAMES_EXTENSION)
    if frames is None or not frames.carries(receive, _without_starlette(send)):
        return None
    return frames


def _without_starlette(send: Any) -> Any:
    while (getattr(send, "__module__", ""), getattr(send, "__qualname__", "")) == _STARLETTE_SENDER:
        cells = dict(zip(send.__code__.co_freevars, send.__closure__ or (), strict=True))
        if "send" not in cells:
            break
        send = cells["send"].cell_contents
    return send
