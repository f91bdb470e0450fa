"""Reading an answer of HTTP/1.1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

__all__ = ["AnswerReader", "HttpAnswer", "NoAnswer"]

#: How long is waited for the word on a body, in seconds: a server that gives none gets the body.
ASK_TIMEOUT_S = 1.0
MAX_HEAD_BYTES = 64 * 1024


class NoAnswer(ConnectionError):
    """The connection ended before the first byte of an answer."""


@dataclass(frozen=True)
class HttpAnswer:
    """What the server said; the names of headers are in lower case. A body that went into the caller's memory is a view of that."""

    status: int
    headers: dict[str, str]
    body: bytes | memoryview


class AnswerReader:
    """Reads one answer from a connection.

    Parameters
    ----------
    receive : callable
        Returns what has come; no bytes at the end of the connection.
    receive_into : callable
        Fills the beginning of a buffer with what has come; returns the number of bytes, 0 at the end of the connection.
    moved : callable
        Called whenever something has come.
    into : memoryview, optional
        Memory for the body of an answer with a range (status 206), where it fits in.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes]],
        receive_into: Callable[[memoryview], Awaitable[int]],
        moved: Callable[[], None],
        into: memoryview | None = None,
    ) -> None:
        self._receive = receive
        self._receive_into = receive_into
        self._moved = moved
        self._into = into
        self._held = bytearray()
        self._began = False
        self._head: tuple[int, dict[str, str]] | None = None
        #: Whether nothing of it is left on the connection, and the server keeps that.
        self.reusable = False

    async def wants_body(self) -> bool:
        """Wait for the server's word on a body; without one in time it gets it."""
        with anyio.move_on_after(ASK_TIMEOUT_S):
            status, headers = await self._read_head()
            if status != 100:
                self._head = status, headers
                return False
        return True

    async def answer(self) -> HttpAnswer:
        """Return the answer."""
        status, headers = self._head or await self._read_head()
        while status < 200:
            status, headers = await self._read_head()
        body, ended = await self._read_body(status, headers)
        self.reusable = not ended and not self._held and "close" not in headers.get("connection", "").lower()
        return HttpAnswer(status, headers, body)

    async def _more(self) -> bytes:
        """Return what comes next; nothing at the end of the connection."""
        try:
            data = await self._receive()
        except ConnectionError:
            if self._began:
                raise
            data = b""
        if data:
            self._began = True
            self._moved()
        return data

    async def _need_more(self) -> bytes:
        if not (data := await self._more()):
            raise ConnectionError("the connection ended within an answer") if self._began else NoAnswer("no answer")
        return data

    async def _read_head(self) -> tuple[int, dict[str, str]]:
        text = (await self._until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise ConnectionError(f"that is no answer of HTTP: {first[:40]!r}")
        pairs = (line.partition(":") for line in lines)
        return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def _read_body(self, status: int, headers: dict[str, str]) -> tuple[bytes | memoryview, bool]:
        """Return the body, and whether the end of the connection is its end."""
        if status in (204, 304):
            return b"", False
        if "chunked" in headers.get("transfer-encoding", "").lower():
            pieces = []
            while size_bytes := _length((await self._until(b"\r\n")).partition(b";")[0], 16):
                pieces.append(await self._exactly(size_bytes))
                await self._until(b"\r\n")
            while await self._until(b"\r\n"):
                pass  # What stands behind the last piece is of no use here.
            return b"".join(pieces), False
        if "content-length" in headers:
            size_bytes = _length(headers["content-length"].encode(), 10)
            if self._into is not None and status == 206 and size_bytes <= len(self._into):
                return await self._fill(self._into[:size_bytes]), False
            return await self._exactly(size_bytes), False
        while data := await self._more():
            self._held += data
        content = bytes(self._held)
        self._held.clear()
        return content, True

    async def _until(self, end: bytes) -> bytes:
        while (found := self._held.find(end)) < 0:
            if len(self._held) > MAX_HEAD_BYTES:
                raise ConnectionError("the head of an answer does not end")
            self._held += await self._need_more()
        text = bytes(self._held[:found])
        del self._held[: found + len(end)]
        return text

    async def _fill(self, view: memoryview) -> memoryview:
        """Read straight into `view`."""
        done = min(len(self._held), len(view))
        view[:done] = self._held[:done]
        del self._held[:done]
        while done < len(view):
            count = await self._receive_into(view[done:])
            if not count:
                raise ConnectionError("the connection ended within an answer")
            self._moved()
            done += count
        return view

    async def _exactly(self, size_bytes: int) -> bytes:
        pieces, left = [bytes(self._held[:size_bytes])], size_bytes - len(self._held)
        del self._held[:size_bytes]
        while left > 0:
            data = await self._need_more()
            if len(data) > left:
                self._held += data[left:]
                data = data[:left]
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)


def _length(text: bytes, base: int) -> int:
    try:
        size_bytes = int(text, base)
    except ValueError:
        size_bytes = -1
    if size_bytes < 0:
        raise ConnectionError(f"that is no length: {text[:40]!r}")
    return size_bytes
