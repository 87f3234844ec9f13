"""The supervisor: starts the workers, starts again those that die, and ends when all have drained. It serves nothing itself.

1. Each worker has its own public socket on the shared port (``SO_REUSEPORT``), so that the kernel spreads clients evenly and a
   dead worker's share goes to the others at once. The supervisor holds the port with a socket that never listens.
2. The ops sockets are bound by the supervisor before anything starts: a port in use is one sentence, and a worker that is
   started again has the address it had.
3. Workers are forked before the supervisor has started any thread or event loop, and never while one runs.
4. SIGTERM, SIGINT and SIGHUP (unless it is ignored from the start) drain all workers; the second one ends them at once. Nothing
   lets the supervisor wait for ever: who outlives the drain by ``PATIENCE_SECONDS`` is killed.
5. A supervisor that dies takes its workers along: they see their lifeline end and drain.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import structlog

from ..errors import StartupError
from ..listening import address_of, bind, bind_all, check_descriptors, greeting, tell_what_is_open
from ..runner import cannot_start
from ..settings import Settings, SettingsError, check_exposure
from .restarts import LONGEST_DELAY_SECONDS, Restarts
from .worker import SERVING, work

__all__ = ["Supervisor", "supervise"]

log = structlog.get_logger("tidegate.workers")

PATIENCE_SECONDS = 10.0
"""How long after the end of the drain a worker may still be there."""
AT_ONCE_SECONDS = 3.0
"""The same after a second signal."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Work = Callable[[Settings, int, int, socket.socket, int, int], int]


def supervise(settings: Settings) -> int:
    """Run ``settings.workers`` workers until a signal.

    Returns the exit code, in a worker's process too: 0 after a clean drain, 1 when it could not start or go on, 2 for settings.
    """
    sockets: list[socket.socket] = []
    try:
        check_exposure(settings)
        check_descriptors(settings.connection_limit.total)  # the limit is one of each process, and is inherited
        tell_what_is_open(settings)
        ports = [settings.ops_port and settings.ops_port + number for number in range(settings.workers)]
        wanted = [(settings.ops_host, port, "TIDEGATE_OPS_PORT") for port in ports]
        alone, *sockets = bind_all([(settings.host, settings.port, "TIDEGATE_PORT"), *wanted])
        alone.close()  # there is no other gateway, with which we would share the port unnoticed
        public = bind(settings.host, settings.port, "TIDEGATE_PORT", shared=True)
    except (SettingsError, StartupError) as error:
        for one in sockets:
            one.close()
        return cannot_start(error)
    return Supervisor(settings, public, sockets).run()


class _Worker:
    """One of the processes, or the place of one that is to be started."""

    def __init__(self, number: int, ops: socket.socket) -> None:
        self.number = number
        self.ops = ops
        self.pid: int | None = None
        self.report = -1
        """Where it says that it serves."""
        self.serving = False
        self.started_at = 0.0
        self.due_at = 0.0
        self.restarts = Restarts()


class Supervisor:
    """Keeps workers.

    Args:
        settings: of all of them.
        public: holds the public port; its workers share it.
        ops: the bound ops socket of each worker.
        work: what a worker does.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        settings: Settings,
        public: socket.socket,
        ops: list[socket.socket],
        *,
        work: Work = work,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._public = public
        self._workers = [_Worker(number, one) for number, one in enumerate(ops)]
        self._work = work
        self._clock = clock
        self._signals = 0
        self._said = 0
        """How many of the signals the workers were told of."""
        self._greeted = False
        self._deadline: float | None = None
        self._exit_code = 0
        self._wakeup = (-1, -1)
        self._lifeline = (-1, -1)

    def run(self) -> int:
        """Until a signal, or until no worker can be kept alive; returns the exit code, also a worker's in its own process."""
        with self._attentive():
            while True:
                for worker in self._workers:
                    code = self._start_if_due(worker)
                    if code is not None:
                        return code  # this is the worker's process, and its end
                self._wait()
                self._hear_reports()
                self._bury()
                self._tell_signals()
                if self._ending and not any(worker.pid for worker in self._workers):
                    log.info("all workers have ended", exit_code=self._exit_code)
                    return self._exit_code

    @property
    def _ending(self) -> bool:
        return self._signals > 0

    # -- workers

    def _start_if_due(self, worker: _Worker) -> int | None:
        """Start it; returns an exit code in the new process, at its end, and ``None`` in this one."""
        if worker.pid is not None or self._ending or worker.due_at > self._clock():
            return None
        reading, writing = os.pipe()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDING, signal.SIGQUIT, signal.SIGCHLD})
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: the workers that there are go on
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(reading)
            os.close(writing)
            self._not_started(worker, error)
            return None
        if pid == 0:
            os.close(reading)
            self._let_go_of_all_but(worker)
            port = self._public.getsockname()[1]
            self._public.close()
            return self._work(self._settings, worker.number, port, worker.ops, self._lifeline[0], writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(writing)
        os.set_blocking(reading, False)
        worker.pid, worker.report, worker.serving, worker.started_at = pid, reading, False, self._clock()
        return None

    def _not_started(self, worker: _Worker, error: OSError) -> None:
        """There can be no new process now."""
        if not self._greeted:
            self._give_up(f"worker {worker.number} could not be started: {error.strerror}", 1)
            return
        delay = worker.restarts.died(0.0)
        worker.due_at = self._clock() + delay
        log.error("a worker could not be started", worker=worker.number, reason=error.strerror, again_in_seconds=delay)

    def _let_go_of_all_but(self, worker: _Worker) -> None:
        """In a new worker: what is the supervisor's and the others', above all the lifeline's far end."""
        signal.set_wakeup_fd(-1)
        for descriptor in (*self._wakeup, self._lifeline[1]):
            os.close(descriptor)
        for other in self._workers:
            if other is not worker:
                other.ops.close()
            if other.report >= 0:
                os.close(other.report)

    def _hear_reports(self) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                self._hear(worker)
        if not self._greeted and all(worker.serving for worker in self._workers):
            self._greeted = True
            ops = [address_of(worker.ops) for worker in self._workers]
            print(greeting(address_of(self._public), ops, self._settings), flush=True)  # noqa: T201 - for people

    def _hear(self, worker: _Worker) -> None:
        if not worker.serving:
            with suppress(BlockingIOError):
                worker.serving = os.read(worker.report, 64) == SERVING

    def _bury(self) -> None:
        for worker in self._workers:
            if worker.pid is None:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: _Worker, code: int) -> None:
        lived = self._clock() - worker.started_at
        pid, worker.pid = worker.pid, None
        self._hear(worker)  # it may have said so since the reports were heard
        os.close(worker.report)
        worker.report = -1
        was_serving, worker.serving = worker.serving, False
        how = {"exit_code": code} if code >= 0 else {"signal": _name(-code)}
        if self._ending:
            # One that has not taken signals over yet, or does not take them any more, ends of what it was told.
            is_clean = code in (0, -signal.SIGTERM, -signal.SIGQUIT)
            self._exit_code = self._exit_code or (0 if is_clean else 1)
            return
        if code == 0 and was_serving:  # it was told to end, and has drained: no death
            worker.due_at = self._clock()
            log.info("a worker has drained and is replaced", worker=worker.number, pid=pid, lived_seconds=round(lived, 1))
            return
        delay = worker.restarts.died(lived)
        worker.due_at = self._clock() + delay
        if not was_serving and not self._greeted:
            self._give_up(f"worker {worker.number} could not start; its log says why", code)
        elif worker.restarts.hopeless and not any(other.serving for other in self._workers):
            self._give_up(
                f"worker {worker.number} died at once {worker.restarts.quick_deaths} times in a row and no other serves", 1
            )
        else:
            log.error("a worker died", worker=worker.number, pid=pid, lived_seconds=round(lived, 1), again_in_seconds=delay, **how)
            if worker.restarts.hopeless:
                text = f"it dies at once; it is tried again every {LONGEST_DELAY_SECONDS:g} s while others serve"
                log.error("a worker cannot be kept alive", worker=worker.number, hint=text)

    def _give_up(self, reason: str, code: int) -> None:
        log.error("giving up", reason=reason)
        self._exit_code = code if code > 0 else 1
        self._signals += 1

    # -- signals

    def _tell_signals(self) -> None:
        if self._signals > self._said:
            at_once = self._signals > 1
            self._said = self._signals
            seconds = AT_ONCE_SECONDS if at_once else self._settings.drain.total_seconds + PATIENCE_SECONDS
            self._deadline = self._clock() + seconds
            log.info("ending all workers", at_once=at_once)
            self._send(signal.SIGQUIT if at_once else signal.SIGTERM)
        elif self._deadline is not None and self._clock() >= self._deadline:
            self._deadline = None
            log.error("workers that do not end are killed", workers=[one.number for one in self._workers if one.pid])
            self._send(signal.SIGKILL)

    def _send(self, sig: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid is not None:  # not waited for yet, so the number is still its own
                os.kill(worker.pid, sig)

    def _noted(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGCHLD:
            self._signals += 1

    def _wait(self) -> None:
        """Until a signal, a report, or something is due; a second at most."""
        due = [worker.due_at for worker in self._workers if worker.pid is None] if not self._ending else []
        timeout = max(0.0, min([1.0, *(at - self._clock() for at in due)]))
        reports = [worker.report for worker in self._workers if worker.pid is not None and not worker.serving]
        ready, _, _ = select.select([self._wakeup[0], *reports], (), (), timeout)
        if self._wakeup[0] in ready:
            os.read(self._wakeup[0], 4096)

    @contextmanager
    def _attentive(self) -> Iterator[None]:
        self._wakeup, self._lifeline = os.pipe(), os.pipe()
        for descriptor in self._wakeup:
            os.set_blocking(descriptor, False)
        me, signals = os.getpid(), [*_ENDING, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # so nohup says that we are to outlive the terminal
            signals.remove(signal.SIGHUP)
        before_fd = signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        before = {sig: signal.signal(sig, self._noted) for sig in signals}
        try:
            yield
        finally:
            if os.getpid() == me:  # a worker has let go of it all
                signal.set_wakeup_fd(before_fd)
                for sig, handler in before.items():
                    signal.signal(sig, handler)
                for descriptor in (*self._wakeup, *self._lifeline):
                    os.close(descriptor)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
