"""``gateway.api.idempotency``: done once, answered alike, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.idempotency import IdempotencyTable, KeyReused, TableFull
from tests.middleware.asgi_helpers import Clock


class Work:
    """Something to do: counts how often it was done and can be made to wait or to fail."""

    def __init__(self) -> None:
        self.done = 0
        self.gate: asyncio.Event | None = None
        self.failure: BaseException | None = None

    async def __call__(self) -> bytes:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.done += 1
        return b"answer %d" % self.done


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_second_time_the_answer_is_the_first_one() -> None:
    """The work is done once; the repetition gets the same bytes and is said to be one."""
    table, work = IdempotencyTable(), Work()
    assert await table.run("k", b"f", work) == (b"answer 1", False)
    assert await table.run("k", b"f", work) == (b"answer 1", True)
    assert work.done == 1
    assert table.statistics().replayed == 1


async def test_keys_do_not_share_answers() -> None:
    """Another key is another request, though the fingerprint is the same."""
    table, work = IdempotencyTable(), Work()
    await table.run("a", b"f", work)
    assert await table.run("b", b"f", work) == (b"answer 2", False)


async def test_another_request_under_the_key_is_refused() -> None:
    """A key stands for one request, while that is under way as well as after it."""
    table, work = IdempotencyTable(), Work()
    work.gate = asyncio.Event()
    first = asyncio.create_task(table.run("k", b"f", work))
    await settle()
    with pytest.raises(KeyReused):
        await table.run("k", b"other", work)
    work.gate.set()
    await first
    with pytest.raises(KeyReused):
        await table.run("k", b"other", work)
    assert (work.done, table.statistics().conflicts) == (1, 2)


async def test_repetitions_wait_for_the_first() -> None:
    """Those that come meanwhile get its answer when it is there."""
    table, work = IdempotencyTable(), Work()
    work.gate = asyncio.Event()
    runs = [asyncio.create_task(table.run("k", b"f", work)) for _ in range(10)]
    await settle()
    assert (work.done, table.statistics().in_flight) == (0, 1)
    work.gate.set()
    assert sorted(await asyncio.gather(*runs)) == [(b"answer 1", False)] + [(b"answer 1", True)] * 9
    assert work.done == 1


async def test_after_a_failure_the_next_one_tries() -> None:
    """The first one's failure is its own: of those that wait one tries, the rest wait for that."""
    table, work = IdempotencyTable(), Work()
    work.gate, work.failure = asyncio.Event(), RuntimeError("no")
    runs = [asyncio.create_task(table.run("k", b"f", work)) for _ in range(3)]
    await settle()
    second, third = Work(), Work()
    late = [asyncio.create_task(table.run("k", b"f", other)) for other in (second, third)]
    await settle()
    work.gate.set()
    results = await asyncio.gather(*runs, *late, return_exceptions=True)
    assert [type(result) for result in results[:3]] == [RuntimeError] * 3
    assert results[3:] == [(b"answer 1", False), (b"answer 1", True)]
    assert (second.done, third.done) == (1, 0)


async def test_a_cancelled_first_one_leaves_no_trace() -> None:
    """Cancellation is passed on, and whoever waits takes over."""
    table, stuck, work = IdempotencyTable(), Work(), Work()
    stuck.gate = asyncio.Event()
    first = asyncio.create_task(table.run("k", b"f", stuck))
    await settle()
    second = asyncio.create_task(table.run("k", b"f", work))
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == (b"answer 1", False)
    assert table.statistics().in_flight == 0


async def test_a_cancelled_repetition_does_not_disturb_the_first() -> None:
    """Who goes away while waiting takes nobody's answer."""
    table, work = IdempotencyTable(), Work()
    work.gate = asyncio.Event()
    first, second = (asyncio.create_task(table.run("k", b"f", work)) for _ in range(2))
    await settle()
    second.cancel()
    await settle()
    work.gate.set()
    assert await first == (b"answer 1", False)


async def test_an_answer_is_forgotten_in_time() -> None:
    """After ttl_seconds the key is new; until then it is not, however often it is asked for."""
    clock = Clock()
    table, work = IdempotencyTable(ttl_seconds=10, clock=clock), Work()
    await table.run("k", b"f", work)
    clock.advance(9)
    assert (await table.run("k", b"f", work))[1]
    clock.advance(1)
    assert await table.run("k", b"other", work) == (b"answer 2", False)


async def test_at_the_bound_the_answer_least_asked_for_goes() -> None:
    """The table never holds more than max_entries: the least recently used answer is forgotten, and counted."""
    table, work = IdempotencyTable(max_entries=2), Work()
    for key in ("a", "b", "a", "c"):
        await table.run(key, b"f", work)
    assert (await table.run("a", b"f", work))[1]
    assert not (await table.run("b", b"f", work))[1]
    statistics = table.statistics()
    assert (statistics.entries, statistics.evicted) == (2, 2)


async def test_what_has_expired_makes_room_uncounted() -> None:
    """Answers whose time is over go before anybody else's, and that is no eviction."""
    clock = Clock()
    table, work = IdempotencyTable(max_entries=2, ttl_seconds=10, clock=clock), Work()
    await table.run("a", b"f", work)
    await table.run("b", b"f", work)
    clock.advance(10)
    await table.run("c", b"f", work)
    assert (table.statistics().entries, table.statistics().evicted) == (1, 0)


async def test_a_table_full_of_unfinished_requests_refuses() -> None:
    """What is under way is never forgotten, so at the bound a new key is refused; a repetition still waits."""
    table, work = IdempotencyTable(max_entries=1), Work()
    work.gate = asyncio.Event()
    first = asyncio.create_task(table.run("a", b"f", work))
    await settle()
    with pytest.raises(TableFull):
        await table.run("b", b"f", work)
    repetition = asyncio.create_task(table.run("a", b"f", work))
    await settle()
    work.gate.set()
    assert [await first, await repetition] == [(b"answer 1", False), (b"answer 1", True)]
    assert table.statistics().refused == 1


@pytest.mark.parametrize("options", [{"max_entries": 0}, {"ttl_seconds": 0}])
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, int]) -> None:
    """A table that remembers nothing is a mistake."""
    with pytest.raises(ValueError, match=next(iter(options))):
        IdempotencyTable(**options)  # type: ignore[arg-type]


@given(
    bound=st.integers(1, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "finish", "fail", "cancel", "wait"]), st.integers(0, 5), st.integers(0, 1)),
        max_size=40,
    ),
)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_it_stays_bounded_and_consistent(bound: int, steps: list[tuple[str, int, int]]) -> None:
    """Any mix of requests, failures, cancellations and time: never more entries than the bound, equal fingerprints get
    equal answers while remembered, nobody waits for ever, and nothing is left in flight."""
    asyncio.run(_any_mix(bound, steps))


async def _any_mix(bound: int, steps: list[tuple[str, int, int]]) -> None:
    clock, numbers = Clock(), count()
    table = IdempotencyTable(max_entries=bound, ttl_seconds=3, clock=clock)
    gates: list[asyncio.Future[bytes]] = []
    runs: list[tuple[bytes, asyncio.Task[tuple[bytes, bool]]]] = []

    def work(fingerprint: bytes) -> Callable[[], Awaitable[bytes]]:
        async def make() -> bytes:
            gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            gates.append(gate)
            return fingerprint + await gate

        return make

    def open_gate(action: str, index: int) -> None:
        waiting = [gate for gate in gates if not gate.done()]
        if waiting and action == "finish":
            waiting[index % len(waiting)].set_result(b":%d" % next(numbers))
        elif waiting:
            waiting[index % len(waiting)].set_exception(RuntimeError("failed"))

    for action, index, kind in steps:
        if action == "ask":
            fingerprint = b"%d/%d" % (index, kind)
            runs.append((fingerprint, asyncio.create_task(table.run(f"key{index}", fingerprint, work(fingerprint)))))
        elif action == "cancel" and runs:
            runs[index % len(runs)][1].cancel()
        elif action == "wait":
            clock.advance(1)
        else:
            open_gate(action, index)
        await settle()
        assert table.statistics().entries <= bound
    while any(not gate.done() for gate in gates):
        open_gate("finish", 0)
        await settle()
    results = await asyncio.wait_for(asyncio.gather(*(run for _, run in runs), return_exceptions=True), 5)
    for (fingerprint, _), result in zip(runs, results, strict=True):
        if isinstance(result, tuple):
            assert result[0].startswith(fingerprint + b":")
        else:
            assert isinstance(result, KeyReused | TableFull | RuntimeError | asyncio.CancelledError)
    made = [answer for answer, replayed in (result for result in results if isinstance(result, tuple)) if not replayed]
    assert len(made) == len(set(made))
    assert table.statistics().in_flight == 0
