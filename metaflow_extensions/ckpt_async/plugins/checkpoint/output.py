"""Lines for the user."""

from __future__ import annotations

import os
from datetime import datetime

__all__ = ["say", "time_text"]

_STDERR = 2


def say(text: str) -> None:
    """Print `text` as one line of `@checkpoint`. May be called from any thread and from a signal handler; never raises OSError.

    Written past Python's buffers: a handler that interrupts a `print` of the main thread must not enter the same buffer.
    """
    try:
        os.write(_STDERR, f"[@checkpoint] {text}\n".encode(errors="backslashreplace"))
    except OSError:
        # The reader of the task's output may be gone before the task: nobody is left to be told, and the upload matters more.
        return


def time_text(created_on: str) -> str:
    """Return the time of a record to the second; one that can't be read is left as it is."""
    try:
        return datetime.fromisoformat(created_on).replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
    except ValueError:
        return created_on
