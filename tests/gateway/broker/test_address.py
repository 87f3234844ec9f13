"""What ``TIDEGATE_BROKER`` may say, and that its secrets stay in it."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from gateway.broker import EngineBroker, MemoryBroker, open_broker
from gateway.broker.address import Address
from gateway.errors import StartupError


def test_everything_that_a_url_can_say() -> None:
    """Credentials, several hosts, a database, a prefix and files for TLS."""
    address = Address.parse(
        "rediss+cluster://us%40er:p%3Ass@a.example,[::1]:7000/3?prefix=blue-1&ca=/ca.pem&cert=/c.pem&key=/k.pem"
    )
    assert address.hosts == (("a.example", 6379), ("::1", 7000))
    assert (address.username, address.password, address.database) == ("us@er", "p:ss", 3)
    assert (address.prefix, address.ca_file, address.cert_file, address.key_file) == ("blue-1", "/ca.pem", "/c.pem", "/k.pem")
    assert address.tls
    assert address.where == "a.example:6379, [::1]:7000"


def test_little_needs_to_be_said() -> None:
    """Ports, prefix and the rest have defaults."""
    address = Address.parse("nats://broker")
    assert (address.hosts, address.prefix, address.tls, address.username) == ((("broker", 4222),), "tidegate", False, "")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://h/one", "number of a database"),
        ("redis://h:port", "cannot be read"),
        ("nats://a,,b", "names no host"),
        ("redis://a,b", r"redis\+cluster"),
        ("rediss://a:1,b:2", r"rediss\+cluster"),
        ("redis://h?prefix=a.b", "prefix"),
        ("redis://h?prefix=", "prefix"),
        ("redis://h?ca=/x", "rediss"),
        ("rediss://h?certificate=/x", "option"),
        ("kafka://h", "no broker for kafka"),
        ("h", "no broker for h"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(url: str, sentence: str) -> None:
    """And without repeating the URL, which may hold a password."""
    with pytest.raises(StartupError, match=sentence) as caught:
        open_broker(url.replace("//", "//user:hunter2@"))
    assert "hunter2" not in str(caught.value)


def test_the_url_decides_what_carries_messages() -> None:
    """Memory is local; engines are not, and say which they are."""
    assert isinstance(open_broker("memory://"), MemoryBroker)
    for url, name in {
        "redis://h": "Redis", "rediss+cluster://h": "Redis Cluster", "redis+cluster://h": "Redis Cluster", "nats://h": "NATS",
        "tls://h": "NATS",
    }.items():  # fmt: skip
        broker = open_broker(url)
        assert isinstance(broker, EngineBroker)
        assert (broker.engine.name, broker.local) == (name, False)


def test_secrets_are_not_shown() -> None:
    """Neither by ``repr`` nor in what a library says about a failure."""
    address = Address.parse("redis://user:hunter2@h")
    assert "hunter2" not in repr(address)
    assert address.clean("no way\nfor hunter2") == "no way for [redacted]"
    assert Address.parse("nats://token@h").clean("bad token") == "bad [redacted]"


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    found = builtins.__import__

    def without_clients(name: str, *args: Any, **kwargs: Any) -> Any:
        if name in ("redis", "nats") and args[3:] and args[3] == 1:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_clients)
    with pytest.raises(StartupError, match=r"redis.*pip install 'tidegate\[redis\]'"):
        open_broker("redis://h")
    with pytest.raises(StartupError, match=r"pip install 'tidegate\[nats\]'"):
        open_broker("nats://h")
