"""Signals around a step: the alarm of `@timeout`, SIGTERM and Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["EXIT_TERMINATED", "StopSignals", "stop_alarm"]

#: What a shell reports for a process that SIGTERM ended; Metaflow retries it.
EXIT_TERMINATED = 128 + signal.SIGTERM


def stop_alarm() -> None:
    """Take off the alarm that `@timeout` has set: it must not strike while the task waits for its uploads, which have a bound of
    their own.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)


class StopSignals:
    """SIGTERM and SIGINT from before a step until its checkpoints are in the store.

    While the step runs, SIGTERM becomes SystemExit(143), so that the step can be ended in order; SIGINT is left as it is
    (KeyboardInterrupt). After the step nothing is raised: the first signal after an orderly end is noted, and a second one, or any
    one where a signal ended the step, ends the wait for uploads.

    Only installed in the main thread, and only over Python's own defaults: whoever else handles a signal goes on handling it.

    Parameters
    ----------
    say : callable
        Prints one line for the user, from inside a signal handler; must not raise.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._owner_pid = os.getpid()
        self._ending = False
        self._stop_waiting: Callable[[], None] | None = None
        self._previous: dict[int, Any] = {}
        self._wait_is_over = False
        self._received = 0
        self._while_ending: list[int] = []

    def install(self) -> None:
        """Begin to handle SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)

    def begin_end(self) -> None:
        """The step is over: from now on no signal raises. May be called again."""
        self._ending = True
        if threading.current_thread() is not threading.main_thread() or os.getpid() != self._owner_pid:
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)

    def count_interrupt(self) -> None:
        """Ctrl-C has ended the step: the next signal ends the wait."""
        self._received += 1

    def while_waiting(self, stop_waiting: Callable[[], None]) -> None:
        """Have `stop_waiting` called, from inside a signal handler, by the signal that ends the wait; at once where it has come."""
        self._stop_waiting = stop_waiting
        if self._wait_is_over:
            stop_waiting()

    def restore(self) -> None:
        """Put back the handlers that were there before. May be called again."""
        if os.getpid() != self._owner_pid:
            return
        while self._previous:
            number, handler = self._previous.popitem()
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)

    @property
    def stopped(self) -> bool:
        """Whether a signal has come, so that time is short."""
        return self._received > 0

    @property
    def came_late(self) -> bool:
        """Whether a signal has come since the step's end."""
        return bool(self._while_ending)

    def exit_of_late_signal(self) -> BaseException | None:
        """Return the exception that the first signal after the step's end stands for; None where none came."""
        if not self._while_ending:
            return None
        return SystemExit(EXIT_TERMINATED) if self._while_ending[0] == signal.SIGTERM else KeyboardInterrupt()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner_pid:
            # A child that was forked from the task inherited the handler: it dies as if there were none.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._received += 1
        if not self._ending:
            raise SystemExit(EXIT_TERMINATED)
        self._while_ending.append(number)
        if self._received == 1:
            name = signal.Signals(number).name
            self._say(f"{name}: what was saved is still being stored, the task ends after that; a second signal ends the wait.")
            return
        self._wait_is_over = True
        if self._stop_waiting is not None:
            self._stop_waiting()
