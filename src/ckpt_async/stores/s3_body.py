"""The bytes of a request in the form that aiobotocore sends with the least work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from ckpt_async.stores.contract import Body

__all__ = ["RequestBody"]

PIECE_BYTES = 256 * 1024


class RequestBody:
    """A body for aiobotocore: no file, no bytes, but an object that is asked for one piece after another.

    An ``io.IOBase`` would be read through a thread pool, ``bytes`` copied; this costs half of the CPU time of either. `read`,
    `seek`, `tell` and ``len`` are what botocore looks at before it sends, and what it needs to send once more after a redirect.

    Parameters
    ----------
    body : Body
        What is sent.
    moved : callable
        Called whenever the connection takes a piece: the sign that bytes move.
    """

    def __init__(self, body: Body, moved: Callable[[], None]) -> None:
        self._body = body
        self._moved = moved
        self._position = 0

    def __len__(self) -> int:
        return self._body.size_bytes

    def tell(self) -> int:
        """Return where the next `read` starts."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move where the next `read` starts."""
        start = (0, self._position, self._body.size_bytes)[whence]
        self._position = min(max(0, start + offset), self._body.size_bytes)
        return self._position

    def read(self, size_bytes: int = -1) -> bytes:
        """Return the next bytes; only for a client that is set to sign or checksum the body itself."""
        left = self._body.size_bytes - self._position
        wanted = left if size_bytes is None or size_bytes < 0 else min(size_bytes, left)
        pieces, start = [], 0
        for chunk in self._body.chunks:
            begin = max(0, self._position - start)
            if wanted and begin < len(chunk):
                piece = chunk[begin : begin + wanted]
                pieces.append(piece)
                wanted -= len(piece)
                self._position += len(piece)
            start += len(chunk)
        return b"".join(pieces)

    def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        return _Pieces(self._body.chunks, self._moved)


class _Pieces(AsyncIterator["bytes | memoryview"]):
    # A class, not an async generator: one of those, left in the middle by a broken connection, needs a loop to be closed.
    def __init__(self, chunks: tuple[bytes, ...], moved: Callable[[], None]) -> None:
        self._chunks = chunks
        self._moved = moved
        self._chunk = 0
        self._offset = 0

    async def __anext__(self) -> bytes | memoryview:
        self._moved()
        while self._chunk < len(self._chunks):
            chunk = self._chunks[self._chunk]
            begin = self._offset
            if begin >= len(chunk):
                self._chunk, self._offset = self._chunk + 1, 0
                continue
            self._offset = begin + PIECE_BYTES
            if begin == 0 and len(chunk) <= PIECE_BYTES:
                return chunk
            # A slice of bytes would be a copy.
            return memoryview(chunk)[begin : self._offset]
        raise StopAsyncIteration
