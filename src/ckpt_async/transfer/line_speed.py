"""What the line gives, and what follows from it: how large parts are, and how much is under way at once.

On a slow line a part is to be finished, and noted, within tens of seconds: what is under way when a worker dies, or turns to
a newer save, is sent again. On a fast one large parts and many of them cost the least.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LineSpeed", "most_bytes_for", "part_bytes_for", "window_bytes_for"]

MIB = 1024 * 1024

#: The usual part: large enough that requests cost nothing, small enough that several fit into memory. See docs/tuning.md.
PART_BYTES = 16 * MIB
#: What a store may refuse to take less than.
LEAST_PART_BYTES = 5 * MIB
#: How long one part takes at most, on the whole line.
PART_S = 5.0
#: How long what is under way takes.
WINDOW_S = 20.0
#: Before anything is known of the line.
FIRST_WINDOW_BYTES = 2 * PART_BYTES
#: So many parts are under way, where they must be larger than usual: one at a time would be no faster than a single connection.
LARGE_PARTS_AT_ONCE = 4
#: Yet so many bytes of these at most, if not one part has more.
LARGE_PARTS_BYTES = 512 * MIB
#: How often it is measured: after so much time, or after so many bytes where that is sooner.
MEASURE_S = 1.0
MEASURE_BYTES = PART_BYTES


def part_bytes_for(bytes_per_s: float | None) -> int:
    """Return the size of parts for a line of this speed; None: not known yet."""
    if bytes_per_s is None:
        return PART_BYTES
    return max(LEAST_PART_BYTES, min(PART_BYTES, int(bytes_per_s * PART_S) // MIB * MIB))


def window_bytes_for(bytes_per_s: float | None, most_bytes: int) -> int:
    """Return how many bytes may be under way at once, at most `most_bytes`; one part always may."""
    if bytes_per_s is None:
        return min(FIRST_WINDOW_BYTES, most_bytes)
    return max(1, min(most_bytes, int(bytes_per_s * WINDOW_S)))


def most_bytes_for(part_bytes: int, usual_bytes: int) -> int:
    """Return how many bytes are under way at most, in parts of this size: more than usual only where an object is so large that its
    parts must be.
    """
    if part_bytes <= PART_BYTES:
        return usual_bytes
    return max(usual_bytes, min(LARGE_PARTS_AT_ONCE * part_bytes, LARGE_PARTS_BYTES))


class LineSpeed:
    """Measures what a store acknowledges. For one event loop.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = 0.0
        self._bytes = 0
        #: None where nothing was measured yet.
        self.bytes_per_s: float | None = None

    def begin(self) -> None:
        """An upload begins: the time before it does not count."""
        self._since_s, self._bytes = self._clock(), 0

    def acknowledged(self, size_bytes: int) -> None:
        """Count what the store has taken."""
        self._bytes += size_bytes
        passed_s = self._clock() - self._since_s
        if passed_s >= MEASURE_S or (self._bytes >= MEASURE_BYTES and passed_s > 0):
            now = self._bytes / passed_s
            self.bytes_per_s = now if self.bytes_per_s is None else (self.bytes_per_s + now) / 2
            self.begin()
