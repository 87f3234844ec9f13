"""``Prober``: publishes probes over one link after the other, and tells what their coming back or not means.

1. A link is told to be live once: when all its rooms are heard and it is proven (``Probes``).
2. A probe that is overdue ends the link. So does a subscription that takes as long, which is the ``Listener``'s business: that many
   of them take long together ends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..envelope import Envelope
from .link import Link, as_engine_error
from .probes import Probes, Progress

__all__ = ["Prober"]


class Prober:
    """Keeps probing.

    Args:
        probes: what is under way.
        clock: seconds that never go back.
        publish: takes a probe, always.
        live: told that the link can be used.
        failed: told when probes have become late, or overdue, and in words what that means.
        lose, misled: told why the link is of no use; ``misled`` when it may have carried nothing for longer than we knew.
    """

    def __init__(
        self,
        probes: Probes,
        clock: Callable[[], float],
        *,
        publish: Callable[[Envelope], None],
        live: Callable[[], None],
        failed: Callable[[str], None],
        lose: Callable[[str], None],
        misled: Callable[[str], None],
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._publish = publish
        self._live = live
        self._failed = failed
        self._lose = lose
        self._misled = misled
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None

    def attach(self, link: Link) -> None:
        """Probe ``link`` from now on; its probes have just been ``reset``."""
        self._link = link
        self._task = asyncio.get_running_loop().create_task(self._keep_probing(link), name="broker probes")

    def detach(self) -> None:
        """There is no link."""
        self._link = None
        if self._task is not None:
            self._task.cancel()

    @property
    def why(self) -> str:
        """Why the link cannot be used, when it cannot."""
        return self._probes.progress.value or Progress.UNPROVEN.value

    def heard_all(self) -> None:
        """All rooms are heard, perhaps for the first time over this link."""
        if self._link is not None and self._probes.progress is Progress.UNHEARD:
            self._probes.heard_all()
            self._probe(self._link)

    def came_back(self, envelope: Envelope) -> None:
        """A probe has arrived. Raises ``InvalidEnvelope`` for one that was never sent."""
        before = self._probes.progress
        self._probes.came_back(envelope)
        if self._probes.progress is not before:
            self._live()

    async def _keep_probing(self, link: Link) -> None:
        probes = self._probes
        while True:
            self._probe(link)
            if probes.judge(self._clock()):
                self._failed(probes.overdue or self.why)
            if probes.overdue:
                self._misled(probes.overdue)
            await asyncio.sleep(probes.tick_seconds)

    def _probe(self, link: Link) -> None:
        """When it is time to: ask whether the link is still the right one, and publish to ourselves."""
        if due := self._probes.due(self._clock()):
            try:
                link.verify()
            except Exception as error:  # noqa: BLE001 - whatever it is, the link is of no use
                self._lose(str(as_engine_error(error)))
                return
            for envelope in due:
                self._publish(envelope)
