"""``Prober``: publishes probes over one link after the other, and tells what their not coming back means.

1. The first ones go out when all rooms are heard, theirs among them; every one has to come back.
2. Time counts from ``attach``: a link that never gets so far ends like one that carries nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..envelope import Envelope
from .link import Link, as_engine_error
from .probes import Probes

__all__ = ["NOTHING_COMES_BACK", "Prober"]

NOTHING_COMES_BACK = "what is published does not come back"


class Prober:
    """Keeps probing.

    Args:
        probes: what is under way.
        clock: seconds that never go back.
        publish: takes a probe, always.
        failed: told when probes have become late, or overdue, and in words what that means.
        lose, misled: told why the link is of no use; ``misled`` when it has carried nothing for longer than we knew.
    """

    def __init__(
        self,
        probes: Probes,
        clock: Callable[[], float],
        *,
        publish: Callable[[Envelope], None],
        failed: Callable[[str], None],
        lose: Callable[[str], None],
        misled: Callable[[str], None],
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._publish = publish
        self._failed = failed
        self._lose = lose
        self._misled = misled
        self._link: Link | None = None
        self._all_heard = False
        self._task: asyncio.Task[None] | None = None

    def attach(self, link: Link) -> None:
        """Probe ``link`` from now on; its probes have just been ``reset``."""
        self._link, self._all_heard = link, False
        self._task = asyncio.get_running_loop().create_task(self._keep_probing(link), name="broker probes")

    def detach(self) -> None:
        """There is no link."""
        self._link = None
        if self._task is not None:
            self._task.cancel()

    def heard_all(self) -> None:
        """All rooms are heard, perhaps for the first time over this link."""
        if self._link is not None and not self._all_heard:
            self._all_heard = True
            self._probe(self._link)

    async def _keep_probing(self, link: Link) -> None:
        probes = self._probes
        while True:
            if self._all_heard:
                self._probe(link)
            if probes.judge(self._clock()):
                self._failed(probes.overdue or NOTHING_COMES_BACK)
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
