"""A TCP line in front of a server: slower, longer, or cut. It shapes both directions alike; requests of HTTP can be picked out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeAlias

from ckpt_async.testing.ports import HOST

__all__ = ["SlowLine"]

START_TIMEOUT_S = 10.0
READ_BYTES = 64 * 1024
# What goes through at once after a pause; more would make a short transfer look faster than the line.
BURST_S = 0.02
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class _Bucket:
    """A token bucket that all connections of one direction share: they divide the line among them."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    async def take(self, size_bytes: int) -> None:
        if self.bytes_per_s is None:
            return
        now_s = asyncio.get_running_loop().time()
        self._free_at_s = max(self._free_at_s, now_s - BURST_S) + size_bytes / self.bytes_per_s
        if self._free_at_s > now_s:
            await asyncio.sleep(self._free_at_s - now_s)


class SlowLine:
    """A proxy on a free port of 127.0.0.1, in a thread of its own; a context manager.

    Parameters
    ----------
    target_host, target_port : str, int
        The server behind it.
    bytes_per_s : float, optional
        The rate of each direction, shared by all connections; None: unlimited. May be changed while it runs, with `set_rate`.
    latency_s : float
        The time that bytes take, each way.

    Attributes
    ----------
    host, port : str, int
        Where it listens, once entered.
    """

    def __init__(self, target_host: str, target_port: int, bytes_per_s: float | None = None, latency_s: float = 0.0) -> None:
        self._target = (target_host, target_port)
        self._up = _Bucket(bytes_per_s)
        self._down = _Bucket(bytes_per_s)
        self._latency_s = latency_s
        self._counted = threading.Condition()
        self._upstream_bytes = 0
        self._downstream_bytes = 0
        self._connections = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[Writer] = set()
        self._cut = False
        self._held: Callable[[str], bool] = _none
        self._held_differ = asyncio.Event()
        self.host = HOST
        self.port = 0

    @property
    def endpoint_url(self) -> str:
        """Where it listens, as a URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def upstream_bytes(self) -> int:
        """Bytes that were passed on to the server so far."""
        return self._upstream_bytes

    @property
    def downstream_bytes(self) -> int:
        """Bytes that were passed on to clients so far."""
        return self._downstream_bytes

    @property
    def connections(self) -> int:
        """Connections that were accepted so far."""
        return self._connections

    def wait_for_upstream(self, size_bytes: int, timeout_s: float = 30.0) -> None:
        """Wait until so many bytes in all have been passed on to the server.

        Raises
        ------
        TimeoutError
            They were not, in that time.
        """
        with self._counted:
            if not self._counted.wait_for(lambda: self._upstream_bytes >= size_bytes, timeout_s):
                raise TimeoutError(f"{self._upstream_bytes} of {size_bytes} bytes went through within {timeout_s} s")

    def cut(self) -> None:
        """Reset all connections and refuse new ones, until `restore`."""
        self._in_loop(self._do_cut)

    def restore(self) -> None:
        """Take connections again, on the same port."""
        self._in_loop(self._listen)

    def reset(self) -> None:
        """Reset the connections of this moment; new ones are taken."""
        self._in_loop(self._do_reset)

    def hold(self, which: Callable[[str], bool]) -> None:
        """Keep back the requests of HTTP for whose first line (``PUT /path HTTP/1.1``) `which` is true, as a server does that never
        answers. What was held before and is no longer goes on.
        """

        async def change() -> None:
            self._let_go()
            self._held = which

        self._in_loop(change)

    def let_go(self) -> None:
        """Hold nothing any more."""
        self.hold(_none)

    def _let_go(self) -> None:
        self._held = _none
        self._held_differ.set()
        self._held_differ = asyncio.Event()

    async def _admit(self, data: bytes) -> None:
        """Wait while the request that begins with `data` is held."""
        request = _request_line(data)
        while request and self._held(request):
            await self._held_differ.wait()

    def set_rate(self, bytes_per_s: float | None) -> None:
        """Change the rate of each direction."""
        self._up.bytes_per_s = self._down.bytes_per_s = bytes_per_s

    def __enter__(self) -> SlowLine:
        started = threading.Event()
        failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(started, failures), name="slow-line", daemon=True)
        self._thread.start()
        if not started.wait(START_TIMEOUT_S) or failures:
            raise RuntimeError("the slow line did not start") from (failures[0] if failures else None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._loop is not None and self._stop is not None and self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)
        if self._thread.is_alive():
            raise RuntimeError("the slow line did not end")

    def _in_loop(self, act: Callable[[], Awaitable[None]]) -> None:
        assert self._loop is not None

        async def run() -> None:
            await act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_TIMEOUT_S)

    def _run(self, started: threading.Event, failures: list[BaseException]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:  # handed to the thread that started this one
            failures.append(error)
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self._listen()
        started.set()
        await self._stop.wait()
        self._let_go()
        await self._do_cut()

    async def _listen(self) -> None:
        if self._server is None:
            self._cut = False
            self._server = await asyncio.start_server(self._connected, self.host, self.port, limit=READ_BYTES)
            self.port = int(self._server.sockets[0].getsockname()[1])

    async def _do_cut(self) -> None:
        self._cut = True
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._do_reset()

    async def _do_reset(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        self._writers.add(writer)
        with self._counted:
            self._connections += 1
        try:
            try:
                server_reader, server_writer = await asyncio.open_connection(*self._target, limit=READ_BYTES)
            except OSError:
                _reset(writer)
                return
            self._writers.add(server_writer)
            try:
                if self._cut:
                    return
                tasks = [
                    asyncio.create_task(self._pump(reader, server_writer, self._up, self._count_up, self._admit)),
                    asyncio.create_task(self._pump(server_reader, writer, self._down, self._count_down, _admit_all)),
                ]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                self._writers.discard(server_writer)
                await _close(server_writer)
        except (OSError, asyncio.IncompleteReadError):
            # One side has reset its connection: so does the other.
            _reset(writer)
        finally:
            self._writers.discard(writer)
            await _close(writer)

    async def _pump(
        self,
        reader: Reader,
        writer: Writer,
        bucket: _Bucket,
        count: Callable[[int], None],
        admit: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Pass bytes on: reading and writing go on while earlier bytes are still on their way, as on a long line."""
        loop = asyncio.get_running_loop()
        # Bounded, so that the sender feels the line.
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def deliver() -> None:
            while True:
                arrives_s, data = await under_way.get()
                if arrives_s > loop.time():
                    await asyncio.sleep(arrives_s - loop.time())
                if not data:
                    with contextlib.suppress(OSError, RuntimeError):
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                count(len(data))

        delivery = asyncio.create_task(deliver())
        try:
            while True:
                data = await reader.read(READ_BYTES)
                await admit(data)
                await bucket.take(len(data))
                if delivery.done():
                    break
                await under_way.put((loop.time() + self._latency_s, data))
                if not data:
                    break
            await delivery
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)

    def _count_up(self, size_bytes: int) -> None:
        with self._counted:
            self._upstream_bytes += size_bytes
            self._counted.notify_all()

    def _count_down(self, size_bytes: int) -> None:
        with self._counted:
            self._downstream_bytes += size_bytes


def _none(request: str) -> bool:
    return False


async def _admit_all(data: bytes) -> None:
    pass


def _request_line(data: bytes) -> str:
    """Return the first line of the request that begins here; empty in the middle of one. A client asks again on a connection only
    after the answer, so a request begins with what is read next.
    """
    line, _, _ = data[:4096].partition(b"\r\n")
    return line.decode("latin-1") if line.endswith((b"HTTP/1.1", b"HTTP/1.0")) else ""


def _reset(writer: Writer) -> None:
    """Drop a connection the rude way: the other side gets a reset, not an end."""
    opened = writer.get_extra_info("socket")
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _close(writer: Writer) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
