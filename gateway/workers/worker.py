"""What a worker process does: be a node of its own on a port that it shares, with a name in every line of the log."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket

from ..app import create_app
from ..errors import StartupError
from ..listening import bind
from ..runner import Place, cannot_start, run
from ..settings import Settings, SettingsError

__all__ = ["SERVING", "work"]

SERVING = b"serving\n"
"""What a worker writes to its supervisor when it serves."""


class _Naming(logging.Filter):
    """Adds fields to every event, of structlog and of the standard module."""

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self._fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):  # structlog's events travel so
            record.msg = {**self._fields, **record.msg}
        else:
            record.__dict__.update(self._fields)
        return True


def work(settings: Settings, number: int, public_port: int, ops: socket.socket, lifeline: int, report: int) -> int:
    """Serve until a signal; returns the exit code. To be called in the worker's process, with signals still blocked.

    Args:
        settings: of all workers.
        number: of this one.
        public_port: the port that all share.
        ops: this one's own ops listener, bound.
        lifeline: ends when the supervisor does.
        report: where the supervisor hears that this one serves.
    """
    for sig in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all; the supervisor says what they mean
        signal.signal(sig, signal.SIG_IGN)
    for sig in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(sig, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, lambda *_: os._exit(1))  # until the server takes it; a core dump is nobody's wish
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    node = secrets.token_hex(4)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Naming(worker=number, node=node))
    try:
        public = bind(settings.host, public_port, "TIDEGATE_PORT", shared=True)
        gateway = create_app(settings, node=node)
    except (SettingsError, StartupError) as error:
        return cannot_start(error)
    return run(gateway, public, ops, Place(number, node, lifeline, lambda: _tell(report)))


def _tell(report: int) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone, as the lifeline will say
        os.write(report, SERVING)
