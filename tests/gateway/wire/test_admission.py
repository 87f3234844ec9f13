"""``Admission``: how many handshakes may be pending."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.admission import Admission


class Client:
    def __init__(self) -> None:
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


def test_one_client_has_a_cap() -> None:
    """The next is refused; when one is through, the next may come."""
    admission = Admission(total=None, per_client=2)
    clients = [Client() for _ in range(3)]
    assert [admission.enter(client, "192.0.2.1", 0) for client in clients] == [True, True, False]
    assert admission.enter(Client(), "192.0.2.2", 0)
    admission.leave(clients[0])
    assert admission.enter(clients[2], "192.0.2.1", 0)


def test_an_ipv6_site_is_one_client() -> None:
    """The /64 counts, not the address."""
    admission = Admission(total=None, per_client=1)
    assert admission.enter(Client(), "2001:db8::1", 0)
    assert not admission.enter(Client(), "2001:db8::2", 0)
    assert admission.enter(Client(), "2001:db8:0:1::1", 0)


@pytest.mark.parametrize(
    ("exempt", "host"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.1"),
        ("192.0.2.0/24", "::ffff:192.0.2.1"),
        ("2001:db8::/32", "2001:db8::1"),
        ("*", "anywhere"),
        ("192.0.2.1", ""),
    ],
)
def test_a_load_balancer_may_be_exempt(exempt: str, host: str) -> None:
    """From the cap per client only, also where a socket for both families names it; so is everybody behind a Unix socket."""
    admission = Admission(total=3, per_client=1, exempt=frozenset({exempt}))
    assert [admission.enter(Client(), host, 0) for _ in range(4)] == [True, True, True, False]


def test_others_are_not_exempt_and_nonsense_is_refused() -> None:
    """A network is a network."""
    admission = Admission(total=None, per_client=1, exempt=frozenset({"192.0.2.0/24"}))
    assert [admission.enter(Client(), "198.51.100.1", 0) for _ in range(2)] == [True, False]
    with pytest.raises(ValueError, match="nonsense"):
        Admission(total=None, per_client=1, exempt=frozenset({"nonsense"}))


def test_at_the_total_the_longest_silent_makes_room() -> None:
    """Only when it had a second: a crowd that arrives together is refused at its end, not thrown out at its beginning."""
    admission = Admission(total=2, per_client=None)
    first, second, third, fourth = (Client() for _ in range(4))
    assert admission.enter(first, "a", 0.0)
    assert admission.enter(second, "b", 0.5)
    assert not admission.enter(third, "c", 0.9)
    assert admission.enter(fourth, "d", 1.1)
    assert (first.evicted, second.evicted) == (True, False)
    assert len(admission) == 2


def test_who_has_sent_its_request_goes_to_the_end_of_the_line() -> None:
    """The handshake that waits for the app is not the first to be thrown out."""
    admission = Admission(total=2, per_client=None)
    http, websocket, silent = Client(), Client(), Client()
    admission.enter(http, "a", 0)
    admission.enter(silent, "b", 0)
    admission.hand_over(http, websocket, admission)
    assert admission.enter(Client(), "c", 2)
    assert silent.evicted
    assert not websocket.evicted


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nothing_is_counted_that_has_left(steps: list[tuple[int, str, bool]]) -> None:
    """However clients come and go (twice, too), the caps hold and an empty admission is empty."""
    admission = Admission(total=4, per_client=2)
    clients = [Client() for _ in range(6)]
    inside: dict[Client, str] = {}
    for index, host, entering in steps:
        client = clients[index]
        if entering and client not in inside:
            if admission.enter(client, host, 0):
                inside[client] = host
        else:
            admission.leave(client)
            inside.pop(client, None)
        assert len(admission) == len(inside) <= 4
        assert all(list(inside.values()).count(name) <= 2 for name in "abc")
    for client in clients:
        admission.leave(client)
    assert not admission._per_client
