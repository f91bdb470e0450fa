"""The bytes of a request in the form that aiobotocore sends with the least work."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ckpt_async.stores.contract import Body, Chunk
from ckpt_async.stores.http_client import Sending

__all__ = ["PIECE_BYTES", "RequestBody"]

PIECE_BYTES = 256 * 1024


class RequestBody:
    """A body for aiobotocore: no file, no bytes, but an object that is asked for one piece after another.

    An ``io.IOBase`` would be read through a thread pool, ``bytes`` copied; this costs half of the CPU time of either. `read`,
    `seek`, `tell` and ``len`` are what botocore looks at before it sends, and what it needs to send once more after a redirect.

    Parameters
    ----------
    body : Body
        What is sent.
    how : Sending
        At which pace, and who is told.
    """

    def __init__(self, body: Body, how: Sending) -> None:
        self._body = body
        self._how = how
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

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return _Pieces(self._body.chunks, self._how)


class _Pieces(AsyncIterator[Chunk]):
    # A class, not an async generator: one of those, left in the middle by a broken connection, needs a loop to be closed.
    def __init__(self, chunks: tuple[Chunk, ...], how: Sending) -> None:
        self._chunks = chunks
        self._how = how
        self._piece_bytes = min(PIECE_BYTES, how.piece_bytes)
        self._chunk = 0
        self._offset = 0

    async def __anext__(self) -> Chunk:
        self._how.moved()
        while self._chunk < len(self._chunks):
            chunk = self._chunks[self._chunk]
            begin = self._offset
            if begin >= len(chunk):
                self._chunk, self._offset = self._chunk + 1, 0
                continue
            self._offset = begin + self._piece_bytes
            await self._how.pace(min(self._piece_bytes, len(chunk) - begin))
            if begin == 0 and len(chunk) <= self._piece_bytes:
                return chunk
            # A slice of bytes would be a copy.
            return memoryview(chunk)[begin : self._offset]
        raise StopAsyncIteration
