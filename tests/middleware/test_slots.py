"""The synchronous core of the connection limit: counts, and the queue for what is full."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from middleware.slots import Claim, Slots, Waiter

LIMITS = {"total": 4, "per_room": 2}
ROOMS = ["", "red", "blue", "green"]


def claims_of(room: str) -> tuple[Claim, ...]:
    """What a connection to ``room`` needs; ``""`` is no room."""
    return (("total", "total"), ("per_room", room)) if room else (("total", "total"),)


class SlotsMachine(RuleBasedStateMachine):
    """Everything that can happen to slots, in any order, against a plain list of who is in and who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.slots = Slots(LIMITS)
        self.inside: list[tuple[Claim, ...]] = []
        self.queue: list[Waiter] = []

    def teardown(self) -> None:
        self.loop.close()

    def fits(self, claims: tuple[Claim, ...]) -> bool:
        taken = Counter(claim for inside in self.inside for claim in inside)
        return all(taken[claim] < LIMITS[claim[0]] for claim in claims)

    def serve_model(self) -> None:
        """The naive rule: the first in the queue that fits goes in, again and again."""
        for waiter in [waiter for waiter in self.queue if self.fits(waiter.claims)]:
            if self.fits(waiter.claims):
                self.queue.remove(waiter)
                self.inside.append(waiter.claims)
                assert waiter.has_slots
                self.slots.leave(waiter)

    @rule(room=st.sampled_from(ROOMS))
    def come(self, room: str) -> None:
        claims = claims_of(room)
        assert (self.slots.lacking(claims) is None) == self.fits(claims)
        if self.fits(claims):
            self.slots.take(claims)
            self.inside.append(claims)
        else:

            async def join() -> Waiter:
                return self.slots.join(claims)

            self.queue.append(self.loop.run_until_complete(join()))

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        claims = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.slots.give_back(claims)
        self.serve_model()

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), cancelled=st.booleans())
    def give_up(self, data: st.DataObject, cancelled: bool) -> None:
        waiter = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        if cancelled:
            waiter.granted.cancel()
        waiter.expire()
        assert not waiter.has_slots
        self.slots.leave(waiter)

    @invariant()
    def counts_are_those_of_who_is_inside(self) -> None:
        assert self.slots.taken == dict(Counter(claim for inside in self.inside for claim in inside))
        assert all(taken <= LIMITS[kind] for (kind, _), taken in self.slots.taken.items())

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        assert list(self.slots.waiters) == self.queue
        assert not any(self.fits(waiter.claims) for waiter in self.queue)


SlotsMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestSlots = SlotsMachine.TestCase


async def test_a_slot_is_not_handed_to_who_has_given_up_but_not_left_yet() -> None:
    """Between a cancellation and the task's end lies a turn of the loop; a slot freed then goes to the next."""
    slots = Slots({"total": 1})
    claims = claims_of("")
    slots.take(claims)
    gone, expired, patient = slots.join(claims), slots.join(claims), slots.join(claims)
    gone.granted.cancel()
    expired.expire()
    slots.give_back(claims)
    assert [waiter.has_slots for waiter in (gone, expired, patient)] == [False, False, True]
