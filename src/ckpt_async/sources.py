"""What a task has not saved yet and will save by itself: states in memory that a thread is still writing.

Whoever holds such things registers as a source; before the task's saves are flushed, each source brings in what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["Source", "Sources"]


class Source(Protocol):
    """Holds what is to be saved and not saved yet."""

    def flush(self, deadline_s: float) -> None:
        """Save all that it holds. Called in any thread, before a flush and before the end, perhaps more than once.

        Parameters
        ----------
        deadline_s : float
            On the clock of `time.monotonic`.

        Raises
        ------
        CheckpointError
            Something can't be saved, or not in time, or could not and nobody was told.
        """


class Sources:
    """The sources of a task.

    Parameters
    ----------
    say : callable
        Prints a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Have a source flushed from now on."""
        with self._lock:
            self._sources.append(source)

    def flush(self, deadline_s: float) -> Exception | None:
        """Flush all, whether or not one of them fails. Each failure is said, since a later one may be raised in its place; the
        first is returned.
        """
        with self._lock:
            sources = list(self._sources)
        first: Exception | None = None
        for source in sources:
            try:
                source.flush(deadline_s)
            except Exception as error:  # handed over whole: the saves of others are flushed first
                self._say(str(error))
                first = first or error
        return first
