"""Dictionaries: trained, named by their content, loaded from files, and served for ever."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from middleware.asgi import ASGIApp
from middleware.compression import Dictionary, DictionaryApp, compression_ratio, load_dictionaries, train_dictionary

from .asgi_helpers import Server, run, websocket_scope
from .compression_client import SAMPLES, event, trained

HELD_OUT = [event(number) for number in range(1000, 1200)]


def client(app: ASGIApp) -> httpx.AsyncClient:
    """An HTTP client of ``app``, without a socket."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://tidegate")


# Training.


def test_training_helps_on_messages_it_has_not_seen() -> None:
    """A trained dictionary makes short messages at least twice as small as without it."""
    assert compression_ratio(HELD_OUT, trained()) > 2 * compression_ratio(HELD_OUT)


def test_size_is_a_bound() -> None:
    """A dictionary has at most the bytes asked for."""
    for size_bytes in (256, 1024, 4096):
        assert len(train_dictionary(SAMPLES, size_bytes).data) <= size_bytes


def test_id_is_the_hash_of_the_content() -> None:
    """The id says what is inside: the same samples give the same id, and everybody can check it."""
    assert train_dictionary(SAMPLES, 2048) == trained()
    assert trained().id == hashlib.sha256(trained().data).hexdigest()[:16]
    assert train_dictionary(SAMPLES[:300], 2048).id != trained().id


@pytest.mark.parametrize(
    ("samples", "size_bytes", "sentence"),
    [
        ([], 1024, "0 samples of 8 bytes or more are too few: give at least 10 messages"),
        (SAMPLES[:9], 1024, "9 samples of 8 bytes or more are too few"),
        ([b"x"] * 1000, 1024, "0 samples of 8 bytes or more are too few"),
        ([b""] * 1000, 1024, "0 samples of 8 bytes or more are too few"),
        (SAMPLES[:12], 16 * 1024, "12 samples of [0-9]+ bytes in all are too few for a dictionary of 16384 bytes"),
        (SAMPLES, 255, "a dictionary needs at least 256 bytes, not 255"),
    ],
)
def test_too_few_samples(samples: list[bytes], size_bytes: int, sentence: str) -> None:
    """What is missing is said in a sentence, never in zstd's words alone."""
    with pytest.raises(ValueError, match=sentence):
        train_dictionary(samples, size_bytes)


@given(samples=st.lists(st.binary(max_size=30), max_size=40), size_bytes=st.integers(0, 600))
def test_any_samples_give_a_dictionary_or_a_sentence(samples: list[bytes], size_bytes: int) -> None:
    """Whatever the samples, training neither crashes nor raises anything but ``ValueError``."""
    with contextlib.suppress(ValueError):
        assert len(train_dictionary(samples, size_bytes).data) <= size_bytes


def test_ratio_counts_what_a_client_gets() -> None:
    """The ratio includes the byte of flags, and messages that would not get smaller."""
    noise = os.urandom(999)
    assert compression_ratio([noise]) == pytest.approx(0.999)
    with pytest.raises(ValueError, match="no samples"):
        compression_ratio([])


# Files.


def test_load(tmp_path: Path) -> None:
    """Files are loaded in the order given."""
    other = train_dictionary(SAMPLES, 1024)
    for name, dictionary in (("a", trained()), ("b", other)):
        (tmp_path / name).write_bytes(dictionary.data)
    assert load_dictionaries([tmp_path / "b", str(tmp_path / "a")]) == (other, trained())
    assert load_dictionaries([]) == ()


def test_load_names_the_file_at_fault(tmp_path: Path) -> None:
    """A file that is missing, something else, or damaged is named, with what is wrong."""
    with pytest.raises(ValueError, match=r"missing\.zdict cannot be read: No such file"):
        load_dictionaries([tmp_path / "missing.zdict"])
    wrong = tmp_path / "wrong.zdict"
    wrong.write_bytes(b"just some text")
    with pytest.raises(ValueError, match=r"wrong\.zdict is not a trained zstd dictionary"):
        load_dictionaries([wrong])
    wrong.write_bytes(trained().data[:40])
    with pytest.raises(ValueError, match=r"wrong\.zdict is a damaged zstd dictionary"):
        load_dictionaries([wrong])


# Served.


def apps() -> list[tuple[ASGIApp, str]]:
    """The app by itself, mounted, and as a route; and where its dictionaries are then."""
    app = DictionaryApp([trained()])
    return [
        (app, "/dictionaries/"),
        (Starlette(routes=[Mount("/dictionaries", app)]), "/dictionaries/"),
        (Starlette(routes=[Route("/static/{id}", app)]), "/static/"),
    ]


@pytest.mark.parametrize("where", range(3))
async def test_served_for_ever(where: int) -> None:
    """A dictionary is served by id, immutable, with an entity tag; a client that has it gets 304."""
    app, prefix = apps()[where]
    dictionary = trained()
    async with client(app) as http:
        got = await http.get(prefix + dictionary.id)
        assert (got.status_code, got.content) == (200, dictionary.data)
        assert got.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["etag"] == f'"{dictionary.id}"'
        head = await http.head(prefix + dictionary.id)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(dictionary.data)))
        for condition in (got.headers["etag"], f'"other", W/{got.headers["etag"]}', "*"):
            again = await http.get(prefix + dictionary.id, headers={"if-none-match": condition})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", got.headers["etag"])
            assert "content-length" not in again.headers
        assert (await http.get(prefix + dictionary.id, headers={"if-none-match": '"other"'})).status_code == 200


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("name", ["0000000000000000", "..%2f..%2fetc%2fpasswd", "%00", "%ff", "x" * 4000])
async def test_unknown_dictionary_is_a_problem(where: int, name: str) -> None:
    """An id that is not ours is 404 with a problem document that does not repeat it; caches ask again."""
    app, prefix = apps()[where]
    async with client(app) as http:
        got = await http.get(prefix + name)
    assert got.status_code == 404
    if got.headers["content-type"] != "text/plain; charset=utf-8":  # a router in front may have had no route for it
        assert got.headers["content-type"] == "application/problem+json"
        assert got.headers["cache-control"] == "no-cache"
        assert json.loads(got.content)["status"] == 404
        assert name not in got.text


async def test_only_reading() -> None:
    """Other methods are 405 with ``Allow``."""
    async with client(DictionaryApp([trained()])) as http:
        got = await http.post(f"/dictionaries/{trained().id}", content=b"x")
    assert (got.status_code, got.headers["allow"]) == (405, "GET, HEAD")
    assert got.json()["status"] == 405


async def test_socket_is_refused() -> None:
    """A WebSocket handshake on a dictionary is 404, and where the server cannot say so, closed before accept."""
    server = await run(DictionaryApp([]), websocket_scope())
    assert server.status == 404
    assert (await run(DictionaryApp([]), websocket_scope(denial=False))).close == (1008, "forbidden")


async def test_lifespan_is_not_ours() -> None:
    """Run by itself, the app says that it does not take part in lifespan, as the ASGI specification has it."""
    server = Server()
    with pytest.raises(RuntimeError, match="not a scope of type 'lifespan'"):
        await DictionaryApp([])({"type": "lifespan"}, server.receive, server.send)


def test_damaged_dictionary_is_refused_at_once() -> None:
    """A dictionary that zstd could not use is refused when it is made, not at the first message."""
    with pytest.raises(ValueError, match="damaged"):
        Dictionary(b"\x37\xa4\x30\xec" + b"tide" * 100)
    raw = zstandard.ZstdCompressionDict(b"tide" * 100, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    with pytest.raises(ValueError, match="not a trained zstd dictionary"):
        Dictionary(raw.as_bytes())
