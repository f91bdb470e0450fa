"""A bound on bytes in memory, shared by concurrent tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

__all__ = ["ByteBudget"]


class ByteBudget:
    """Lets tasks hold bytes up to a limit, first come, first served. For one event loop.

    Parameters
    ----------
    limit_bytes : int
        A request above it counts as the whole limit: it runs alone.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._queue: deque[tuple[int, anyio.Event]] = deque()

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold `size_bytes` inside the block."""
        size_bytes = min(size_bytes, self.limit_bytes)
        if self._queue or self.held_bytes + size_bytes > self.limit_bytes:
            granted = anyio.Event()
            ticket = (size_bytes, granted)
            self._queue.append(ticket)
            try:
                await granted.wait()
            except BaseException:
                if granted.is_set():
                    self._release(size_bytes)
                else:
                    self._queue.remove(ticket)
                    self._grant()
                raise
        else:
            self.held_bytes += size_bytes
        try:
            yield
        finally:
            self._release(size_bytes)

    def _release(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        self._grant()

    def _grant(self) -> None:
        while self._queue and self.held_bytes + self._queue[0][0] <= self.limit_bytes:
            size_bytes, granted = self._queue.popleft()
            self.held_bytes += size_bytes
            granted.set()
