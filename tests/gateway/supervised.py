"""A supervisor over workers that do as they are told, as a process of its own:
``python -m tests.gateway.supervised PATIENCE_SECONDS BEHAVIOUR…``.

Each worker has one behaviour. Pauses are short. What happens is told as lines on standard output; the log goes to standard error.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

from gateway.listening import bind
from gateway.logs import configure_logging
from gateway.settings import Settings
from gateway.settings.groups import DrainSettings
from gateway.workers import restarts, supervisor
from gateway.workers.worker import SERVING


def tell(line: str) -> None:
    """In one piece, whoever else writes."""
    os.write(1, f"{line}\n".encode())


def work(settings: Settings, number: int, public_port: int, ops: socket.socket, lifeline: int, report: int) -> int:
    """What ``BEHAVIOUR`` says: serve · stubborn (only SIGKILL ends it) · obstinate (only SIGQUIT) · refuse · dies-at-once."""
    behaviour = sys.argv[2 + number]
    ending: list[int] = []
    for sig in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(sig, signal.SIG_IGN)
    for sig in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(sig, lambda got, _: ending.append(got))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    tell(f"started {number} {os.getpid()}")
    if behaviour == "refuse":
        return 2
    os.write(report, SERVING)
    if behaviour == "dies-at-once":
        time.sleep(0.2)
        os.abort()
    until = {"stubborn": (), "obstinate": (signal.SIGQUIT,)}.get(behaviour, (signal.SIGTERM, signal.SIGQUIT))
    while not (ended_by := [sig for sig in ending if sig in until]):
        readable, _, _ = select.select([lifeline], (), (), 0.02)
        if readable:
            tell(f"orphaned {number}")
            return 0
    tell(f"ended {number} {signal.Signals(ended_by[0]).name}")
    return 0


def main() -> int:
    configure_logging("info", "json")
    supervisor.PATIENCE_SECONDS = supervisor.AT_ONCE_SECONDS = float(sys.argv[1])
    restarts.SHORTEST_DELAY_SECONDS = restarts.LONGEST_DELAY_SECONDS = 0.05
    drain = DrainSettings(delay_seconds=0, period_seconds=0, abort_after_seconds=0.2)
    settings = Settings(workers=len(sys.argv) - 2, broker="redis://127.0.0.1", drain=drain)
    public = bind("127.0.0.1", 0, "TIDEGATE_PORT", shared=True)
    ops = [bind("127.0.0.1", 0, "TIDEGATE_OPS_PORT") for _ in range(settings.workers)]
    return supervisor.Supervisor(settings, public, ops, work=work).run()


if __name__ == "__main__":
    sys.exit(main())
