"""``Proxy``: a TCP proxy in the test's own loop that drops, holds back or cuts what passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Proxy"]

Filter = Callable[[bytes], bytes]

MOST_PIECES = 1_000
"""On their way in one direction of one connection."""


class Proxy:
    """Between clients and a server on 127.0.0.1.

    Args:
        target_port: the server's port.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.target_port = target_port
        self.to_client: Filter = _as_it_is
        """What becomes of each piece from the server; ``b""`` drops it."""
        self.open = asyncio.Event()
        """While it is not set nothing is read: a black hole in both directions."""
        self.open.set()
        self.delay_seconds = 0.0
        """How long each piece is held back, in both directions."""
        self.connections = 0
        """How many clients have come."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End every connection; new ones are welcome."""
        for task in tuple(self._tasks):
            task.cancel()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            writers.append(server_writer)
            ways = [
                asyncio.ensure_future(self._pump(reader, server_writer, None)),
                asyncio.ensure_future(self._pump(server_reader, writer, self)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in writers:
                one.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, filtering: Proxy | None) -> None:
        """Until one side ends. A delay holds each piece back by itself, as a long way does: it does not make pieces fewer."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_PIECES)
        reading = asyncio.ensure_future(self._read(reader, under_way))
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, piece = await under_way.get()
                await asyncio.sleep(due - loop.time())
                await self.open.wait()
                if not piece:
                    return
                writer.write(filtering.to_client(piece) if filtering else piece)
                await writer.drain()
        except OSError:
            return
        finally:
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read(self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop, piece = asyncio.get_running_loop(), b"x"
        while piece:
            await self.open.wait()
            try:
                piece = await reader.read(65536)
            except OSError:
                piece = b""
            await under_way.put((loop.time() + self.delay_seconds, piece))


def _as_it_is(piece: bytes) -> bytes:
    return piece
