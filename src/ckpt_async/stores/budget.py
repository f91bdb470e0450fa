"""A bound on what is held at once (bytes in memory, requests under way), shared by concurrent tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

__all__ = ["Budget"]


@dataclass(eq=False)
class _Ticket:
    """Whoever waits, or holds `share`."""

    wanted: int
    share: int = 0
    granted: anyio.Event = field(default_factory=anyio.Event)


class Budget:
    """Lets tasks hold shares up to a limit, first come, first served. For one event loop.

    Parameters
    ----------
    limit : int
        A request above it counts as the whole limit: it runs alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        self._queue: deque[_Ticket] = deque()

    @property
    def limit(self) -> int:
        """May be changed at any time; what is held stays held."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._grant()

    @asynccontextmanager
    async def hold(self, wanted: int) -> AsyncIterator[None]:
        """Hold a share of this size inside the block."""
        ticket = _Ticket(wanted)
        self._queue.append(ticket)
        self._grant()
        try:
            if not ticket.granted.is_set():
                await ticket.granted.wait()
            yield
        finally:
            if ticket.granted.is_set():
                self.held -= ticket.share
            else:
                self._queue.remove(ticket)
            self._grant()

    def _grant(self) -> None:
        while self._queue:
            ticket = self._queue[0]
            share = min(ticket.wanted, self._limit)
            if self.held + share > self._limit:
                return
            self._queue.popleft().share = share
            self.held += share
            ticket.granted.set()
