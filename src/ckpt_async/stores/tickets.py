"""What a thread that works for a call in the loop needs to know: whether the call still wants it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["GivenUp", "Ticket"]


class GivenUp(Exception):
    """Ends what runs in a thread for a call that was cancelled. Nobody sees it."""


class Ticket:
    """Tells a thread whether its call still wants what it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False

    def give_up(self) -> None:
        """Return when no piece of work that `hold` has begun is going on any more."""
        with self._lock:
            self._given_up = True

    def check(self) -> None:
        """Raise where the call is not wanted any more."""
        if self._given_up:
            raise GivenUp

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep `give_up` waiting during a short piece of work; raises as `check` does."""
        with self._lock:
            self.check()
            yield
