"""Where the gateway listens: sockets, addresses, descriptors, and what is said about them when it serves."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterable, Sequence

import structlog

from .errors import StartupError
from .settings import Settings, is_loopback
from .settings.environment import ENV_PREFIX

__all__ = ["address_of", "bind", "bind_all", "check_descriptors", "greeting", "tell_what_is_open"]

log = structlog.get_logger("tidegate.runner")

_SPARE_DESCRIPTORS = 128
"""Descriptors beside the clients': listeners, broker, exporters, and some to look around with."""


def bind(host: str, port: int, setting: str, *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet; ``shared`` ones may be bound to one port by several processes of a user.

    Raises ``StartupError`` with a sentence when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, else asyncio does not switch Nagle off: what follows a message in a write of its own would wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        how = _written(setting)
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"port {port} on {host} is in use by another process; choose another with {how}") from None
        raise StartupError(f"cannot listen on {host}:{port} ({how}): {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def bind_all(wanted: Iterable[tuple[str, int, str]]) -> list[socket.socket]:
    """As ``bind`` for each; when some addresses cannot be had none is kept, and the ``StartupError`` names all of them."""
    sockets, errors = [], []
    for host, port, setting in wanted:
        try:
            sockets.append(bind(host, port, setting))
        except StartupError as error:
            errors.append(str(error))
    if errors:
        for one in sockets:
            one.close()
        raise StartupError("; ".join(errors))
    return sockets


def _written(setting: str) -> str:
    """A variable and the option that says the same."""
    return f"{setting} or --{setting.removeprefix(ENV_PREFIX).lower().replace('_', '-')}"


def check_descriptors(connections: int | None) -> None:
    """Raise the soft limit of open files as far as it goes; warn when the connection limit does not fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (connections or 0) + _SPARE_DESCRIPTORS
    if soft < needed and hard != soft:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if connections is not None and soft < needed:
        fits = max(1, soft - _SPARE_DESCRIPTORS)
        hint = f"raise it (ulimit -n {needed}, LimitNOFILE=) or set TIDEGATE_CONNECTION_LIMIT__TOTAL={fits}"
        log.warning("the open-files limit is below the connection limit", open_files=soft, connection_limit=connections, hint=hint)


def tell_what_is_open(settings: Settings) -> None:
    """Warn when others can reach the ops listener and no key was set: nobody may have meant that."""
    if settings.api_key is None and not is_loopback(settings.ops_host):
        hint = (
            "set TIDEGATE_API_KEY to close the console, and let only your monitoring reach the port; or TIDEGATE_OPS_HOST=127.0.0.1"
        )
        log.warning("metrics and the console are open to whoever reaches the ops listener", ops_host=settings.ops_host, hint=hint)


def address_of(listener: socket.socket) -> str:
    """``host:port`` that it is bound to."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(address: str) -> str:
    """Where a client on this machine finds what is bound to all addresses."""
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared with, not bound to
    return f"{host}:{port}"


def greeting(public: str, ops: Sequence[str], settings: Settings) -> str:
    """All addresses, as this machine reaches them, and what to try; on standard output: a script can read the ports it got."""
    public, ops = _reachable(public), [_reachable(one) for one in ops]
    publish = (
        f"TIDEGATE_API_KEY=… tidegate publish lobby hello --ops-url http://{ops[0]}"
        if settings.api_key
        else f"# publishing over HTTP needs a key: TIDEGATE_API_KEY=… tidegate serve, then POST http://{ops[0]}/api/rooms/lobby/messages"
    )
    token = ' --token "$(tidegate token --user ann)"' if settings.auth.mode == "jwt" else ""
    join = f"tidegate listen lobby --url ws://{public}{token}"
    workers = f" with {len(ops)} workers" if len(ops) > 1 else ""
    return f"""
Tidegate serves WebSockets at ws://{public}/ws/{{room}}{workers}, operations at {", ".join(f"http://{one}" for one in ops)}.
Try it:
  {join}
  {publish}
  http://{ops[0]}/console in a browser · tidegate top --ops-url http://{ops[0]} · curl http://{ops[0]}/metrics
"""
