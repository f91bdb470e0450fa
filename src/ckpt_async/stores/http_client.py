"""HTTP/1.1 as a store needs it: a request in memory, an answer in memory, kept connections, and no copy of what is sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from ckpt_async.stores.contract import Chunk
from ckpt_async.stores.http_answer import AnswerReader, HttpAnswer, NoAnswer

__all__ = ["HttpClient", "Sending", "open_socket"]

#: A body up to this size goes out together with the head, in one call.
JOIN_BYTES = 64 * 1024
#: From this size on a server is asked on a new connection whether it wants the body, before it is sent in vain.
ASK_FROM_BYTES = 1024 * 1024
TLS_BYTES = 256 * 1024
RECEIVE_BYTES = 128 * 1024
# The kernel takes no more than this beyond what is on the wire: progress is then seen as it is, not as the kernel's buffer fills.
UNSENT_BYTES = 1024 * 1024


async def _at_once(size_bytes: int) -> None:
    return None


@dataclass(frozen=True)
class Sending:
    """How a body goes out.

    Attributes
    ----------
    moved : callable
        Called whenever bytes have moved, in either direction.
    pace : callable
        Awaited with the size of each piece before it is sent.
    piece_bytes : int
        The size of a piece at most.
    """

    moved: Callable[[], None]
    pace: Callable[[int], Awaitable[None]] = field(default=_at_once)
    piece_bytes: int = 1 << 30


class _Line(Protocol):
    """A connection. `receive` returns no bytes at its end."""

    async def send(self, data: Chunk, moved: Callable[[], None]) -> None: ...

    async def receive(self) -> bytes: ...

    async def receive_into(self, view: memoryview) -> int: ...

    def speaks(self) -> bool:
        """Whether the server has sent something that was not read yet, or has ended the connection."""

    def close(self) -> None: ...


class _PlainLine:
    """Over TCP: straight from the caller's memory into the kernel."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        # Where a socket is not known to it, a selector writes its description into an error: for a number that costs nothing.
        self._descriptor = opened.fileno()
        self._loop = asyncio.get_running_loop()

    async def send(self, data: Chunk, moved: Callable[[], None]) -> None:
        left = memoryview(data)[self._try_to_send(data) :]
        if not left:
            return
        done = self._loop.create_future()

        def go_on() -> None:
            nonlocal left
            try:
                left = left[self._try_to_send(left) :]
            except OSError as error:
                self._loop.remove_writer(self._descriptor)
                if not done.done():
                    done.set_exception(error)
                return
            moved()
            if not left and not done.done():
                done.set_result(None)

        # One task switch for a body, not one for each buffer of the kernel that is full.
        self._loop.add_writer(self._descriptor, go_on)
        try:
            await done
        finally:
            self._loop.remove_writer(self._descriptor)

    def _try_to_send(self, data: Chunk) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self._socket, RECEIVE_BYTES)

    async def receive_into(self, view: memoryview) -> int:
        return await self._loop.sock_recv_into(self._socket, view)

    def speaks(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass  # What is wrong, the next call tells.
        return True

    def close(self) -> None:
        self._socket.close()


class _TlsLine:
    """Over TLS, by asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: Chunk, moved: Callable[[], None]) -> None:
        # The layer below encrypts, and holds, whatever it is given.
        for start in range(0, len(data), TLS_BYTES):
            self._writer.write(memoryview(data)[start : start + TLS_BYTES])
            await self._writer.drain()
            moved()

    async def receive(self) -> bytes:
        return await self._reader.read(RECEIVE_BYTES)

    async def receive_into(self, view: memoryview) -> int:
        data = await self._reader.read(min(len(view), RECEIVE_BYTES))
        view[: len(data)] = data
        return len(data)

    def speaks(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        # Not a farewell that waits for the other side.
        self._writer.transport.abort()


class HttpClient:
    """Requests to one server. Connections are kept; there are as many as there are requests at once.

    Parameters
    ----------
    host, port
        Of the server.
    tls : ssl.SSLContext or None
        None: in the clear.
    connect_timeout_s : float
        How long a connection may take.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, connect_timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[_Line] = []
        self._closed = False

    async def exchange(
        self, head: Sequence[str], body: Sequence[Chunk], size_bytes: int, how: Sending, into: memoryview | None = None
    ) -> HttpAnswer:
        """Send one request and return its answer, whatever its status is.

        Parameters
        ----------
        head : sequence of str
            The request line and the headers, but for those that are about the body.
        body : sequence of bytes or memoryview
            Must not change before this returns.
        size_bytes : int
            Of the body.
        how : Sending
            At which pace, and who is told.
        into : memoryview, optional
            Memory for the body of an answer with a range; undefined after a failure.

        Raises
        ------
        OSError
            There is no connection, or it broke; what was sent may have arrived.
        """
        while True:
            kept = self._take()
            # A connection that has served before serves again, as a rule; a word on each body would be one more round trip.
            asks = kept is None and size_bytes >= ASK_FROM_BYTES
            lines = [*head, f"Content-Length: {size_bytes}", *(["Expect: 100-continue"] if asks else []), "", ""]
            line = kept if kept is not None else await self._connect()
            try:
                text = "\r\n".join(lines).encode("latin-1")
                answer, reusable = await _exchange(line, text, body, size_bytes, asks, how, into)
            except NoAnswer:
                line.close()
                if kept is None:
                    raise
                continue  # It was closed while it lay idle.
            except BaseException:
                line.close()
                raise
            if reusable and not self._closed:
                self._idle.append(line)
            else:
                line.close()
            return answer

    async def close(self) -> None:
        """Close the connections that lie idle; those in use are closed after their answer."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        # A transport is gone once the loop has looked at it again: also where the caller is cancelled.
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0)

    def _take(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if not line.speaks():
                return line
            line.close()
        return None

    async def _connect(self) -> _Line:
        with anyio.move_on_after(self._connect_timeout_s):
            loop = asyncio.get_running_loop()
            failure: OSError = ConnectionError("the name has no address")
            for found in await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
                opened = open_socket(found)
                try:
                    await loop.sock_connect(opened, found[4])
                    if self._tls is None:
                        return _PlainLine(opened)
                    return _TlsLine(*await asyncio.open_connection(sock=opened, ssl=self._tls, server_hostname=self._host))
                except ssl.SSLError:
                    opened.close()
                    raise
                except OSError as error:
                    opened.close()
                    failure = error
                except BaseException:
                    opened.close()
                    raise
            raise failure
        raise TimeoutError(f"no connection within {self._connect_timeout_s:g} s")


async def _exchange(
    line: _Line, head: bytes, body: Sequence[Chunk], size_bytes: int, asks: bool, how: Sending, into: memoryview | None
) -> tuple[HttpAnswer, bool]:
    """Return the answer, and whether the connection can be used again."""
    reader = AnswerReader(line.receive, line.receive_into, how.moved, into)
    whole = True
    try:
        if size_bytes <= JOIN_BYTES:
            await how.pace(size_bytes)
            await line.send(b"".join((head, *body)), how.moved)
        else:
            await line.send(head, how.moved)
            if asks:
                whole = await reader.wants_body()
            if whole:
                for piece in _pieces(body, how.piece_bytes):
                    await how.pace(len(piece))
                    if line.speaks():
                        # An answer before the end of the request is a refusal.
                        whole = False
                        break
                    await line.send(piece, how.moved)
    except (BrokenPipeError, ConnectionResetError):
        # The server may have said why, and then closed.
        whole = False
    answer = await reader.answer()
    return answer, whole and reader.reusable


def _pieces(body: Sequence[Chunk], piece_bytes: int) -> Iterator[memoryview]:
    for chunk in body:
        view = memoryview(chunk)
        for start in range(0, len(view), piece_bytes):
            yield view[start : start + piece_bytes]


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a TCP socket that never blocks, keeps little unsent data and notices a dead peer.

    Parameters
    ----------
    address : tuple
        As `socket.getaddrinfo` has it.
    """
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setblocking(False)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        # What was sent and not acknowledged for so long is lost; without it the kernel tries for a quarter of an hour.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    not_sent = getattr(socket, "TCP_NOTSENT_LOWAT", 0x201 if sys.platform == "darwin" else None)
    if not_sent is not None:
        opened.setsockopt(socket.IPPROTO_TCP, not_sent, UNSENT_BYTES)
    return opened
