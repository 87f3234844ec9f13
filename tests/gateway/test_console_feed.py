"""``gateway.console.feed``: one snapshot for all, and none for nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from gateway.console import Feed, Snapshot, TooManyWatchers
from tests.gateway.console_helpers import Hand, feed_of


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_nobody_watching_costs_nothing() -> None:
    """No task and no sample before the first watcher and behind the last; what was seen is forgotten."""
    tasks = asyncio.all_tasks()
    feed = feed_of()
    await settled()
    assert (feed.statistics(), asyncio.all_tasks()) == ((0, 0), tasks)
    watcher = feed.watch()
    assert await watcher.next()
    watcher.leave()
    taken = feed.statistics().taken
    await settled()
    assert (feed.statistics(), asyncio.all_tasks()) == ((0, taken), tasks)
    again = feed.watch()
    assert json.loads(await again.next() or b"")["interval_seconds"] is None
    again.leave()


async def test_one_snapshot_serves_all() -> None:
    """However many watch, a second costs one sample, encoded once."""
    hand = Hand()
    feed = feed_of(sleep=hand.sleep)
    watchers = [feed.watch() for _ in range(5)]
    first = await asyncio.gather(*(watcher.next() for watcher in watchers))
    assert all(snapshot is first[0] for snapshot in first)
    assert feed.statistics() == (5, 1)
    await hand.turn()
    second = await asyncio.gather(*(watcher.next() for watcher in watchers))
    assert second[0] is not first[0]
    assert feed.statistics() == (5, 2)
    for watcher in watchers:
        watcher.leave()


async def test_who_is_late_gets_the_newest_and_nothing_queues() -> None:
    """Snapshots that nobody took in time are gone."""
    hand = Hand()
    feed = feed_of(sleep=hand.sleep)
    watcher = feed.watch()
    await settled()
    for _ in range(3):
        await hand.turn()
    newest = feed.newest[1]
    assert await watcher.next() is newest
    waiting = asyncio.ensure_future(watcher.next())
    await settled()
    assert not waiting.done()
    watcher.leave()
    assert await waiting is None


async def test_rates_can_be_waited_for() -> None:
    """Who asks once gets the second snapshot, which has rates, and at once when others watch already."""
    hand = Hand()
    feed = feed_of(sleep=hand.sleep)
    first = feed.watch()
    asking = asyncio.ensure_future(first.next(with_rates=True))
    await settled()
    assert not asking.done()
    await hand.turn()
    assert json.loads(await asking or b"")["interval_seconds"] == 1.0
    second = feed.watch()
    assert await second.next(with_rates=True) is feed.newest[1]
    assert feed.statistics().taken == 2
    first.leave()
    second.leave()


async def test_watchers_are_bounded() -> None:
    """One more than there may be is turned away, and comes in when another has left."""
    feed = feed_of(most_watchers=2)
    first, second = feed.watch(), feed.watch()
    with pytest.raises(TooManyWatchers, match="2 are watching"):
        feed.watch()
    first.leave()
    first.leave()
    third = feed.watch()
    second.leave()
    third.leave()


async def test_the_end_is_told_once_and_for_all() -> None:
    """When the process is about to end everybody gets one last snapshot, and then nothing."""
    hand, over = Hand(), False
    feed = feed_of(sleep=hand.sleep, is_over=lambda: over)
    watchers = [feed.watch(), feed.watch()]
    assert await watchers[0].next()
    over = True
    await hand.turn()
    for watcher in watchers:
        assert await watcher.next()
        assert await watcher.next() is None
        watcher.leave()


async def test_a_snapshot_that_takes_longer_than_the_interval_is_followed_by_the_next() -> None:
    """What was missed is not made up for, and the pause is never less than nothing."""
    hand = Hand()
    feed = feed_of(sleep=hand.sleep, interval_seconds=1e-9)
    watcher = feed.watch()
    for _ in range(5):
        await settled()
        assert await watcher.next()
        await hand.turn()
    watcher.leave()


async def test_a_figure_that_fails_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in one second is logged, and the next second is another."""

    class Failing:
        def __init__(self, source: Any) -> None:
            self.source = source
            self.failures = 1

        async def take(self) -> Snapshot:
            if self.failures:
                self.failures -= 1
                raise ZeroDivisionError
            snapshot: Snapshot = await self.source.take()
            return snapshot

        def forget(self) -> None:
            self.source.forget()

    hand = Hand()
    feed = Feed(Failing(feed_of()._source), sleep=hand.sleep)
    watcher = feed.watch()
    with caplog.at_level(logging.ERROR, "tidegate.console"):
        await settled()
        await hand.turn()
    assert await watcher.next()
    assert "ZeroDivisionError" in caplog.text
    watcher.leave()


@pytest.mark.parametrize("options", [{"interval_seconds": 0}, {"most_watchers": 0}])
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any]) -> None:
    """An interval of nothing would leave no time for anything else."""
    with pytest.raises(ValueError, match="interval_seconds must be above 0"):
        feed_of(**options)
