"""Calls into the engine that a signal may interrupt.

An exception that a signal handler raises (the alarm of `@timeout`, SIGTERM, Ctrl-C) strikes between any two instructions of the
main thread. Inside the engine it could hit the moment between taking a lock and remembering it, and the end of the step would then
wait for that lock. So the main thread never runs the engine's blocking calls itself: a thread does, and the main thread waits at
a place where nothing can break.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from .output import say

__all__ = ["Apart", "Ended", "run_apart"]

T = TypeVar("T")

#: Python only notices a signal that comes in the moment before a wait when that wait ends: so no single one is longer.
LOOK_UP_S = 0.5


@dataclass(frozen=True)
class Ended(Generic[T]):
    """How a call ended."""

    result: T | None
    error: BaseException | None


class Apart(Generic[T]):
    """A call that runs in a thread of its own.

    Parameters
    ----------
    act : callable
        What to run.
    """

    def __init__(self, act: Callable[[], T]) -> None:
        self._act = act
        # A queue made in C: waiting on it holds nothing, and a signal handler may put into it.
        self._news: SimpleQueue[Ended[T] | None] = SimpleQueue()
        self._abandoned = False
        threading.Thread(target=self._run, name="ckpt-async-call", daemon=True).start()

    def _run(self) -> None:
        try:
            ended = Ended(self._act(), None)
        except BaseException as error:  # handed over whole, to be raised where the call was made
            ended = Ended(None, error)
        self._news.put(ended)
        if self._abandoned and ended.error is not None:
            say(f"a call that was interrupted failed afterwards: {ended.error}")

    def wait(self) -> Ended[T] | None:
        """Wait until the call has ended; None where `stop_waiting` came first. What a signal handler raises comes out of here."""
        try:
            while True:
                try:
                    return self._news.get(timeout=LOOK_UP_S)
                except Empty:
                    continue
        except BaseException:
            self._abandoned = True
            raise

    def stop_waiting(self) -> None:
        """End the wait; the call goes on. May be called from a signal handler."""
        self._news.put(None)


def run_apart(act: Callable[[], T]) -> T:
    """Run `act` and return what it returns, or raise what it raises. Interrupted, the call goes on by itself.

    Other threads than the main one are never interrupted: there it is called as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return act()
    ended = Apart(act).wait()
    assert ended is not None, "nobody stops this wait"
    if ended.error is not None:
        raise ended.error
    return ended.result  # type: ignore[return-value]
