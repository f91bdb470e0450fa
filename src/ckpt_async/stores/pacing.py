"""A cap on how fast bodies go out: one for all requests of a worker, whichever stores they go to."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

__all__ = ["UNPACED", "Pace"]

MAX_PIECE_BYTES = 1024 * 1024
MIN_PIECE_BYTES = 4096
#: How much may go out at once, as a part of a second: small enough to be smooth, large enough to cost nothing.
PIECE_S = 0.05


class Pace:
    """Lets bytes pass at a rate. Whoever comes gets the next free time, so nobody waits in vain and nothing is saved up.

    Parameters
    ----------
    bytes_per_s : int or None
        The rate; None: no cap.
    clock, sleep : callable
        For tests: monotonic seconds, and waiting.
    """

    def __init__(
        self,
        bytes_per_s: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at_s = 0.0
        #: How much one `take` should ask for.
        self.piece_bytes = 1 << 30
        if bytes_per_s is not None:
            self.piece_bytes = min(MAX_PIECE_BYTES, max(MIN_PIECE_BYTES, int(bytes_per_s * PIECE_S)))

    async def take(self, size_bytes: int) -> None:
        """Return when so many bytes may go out."""
        if self._bytes_per_s is None:
            return
        now_s = self._clock()
        start_s = max(now_s, self._free_at_s)
        self._free_at_s = start_s + size_bytes / self._bytes_per_s
        if start_s > now_s:
            await self._sleep(start_s - now_s)


#: No cap.
UNPACED = Pace()
