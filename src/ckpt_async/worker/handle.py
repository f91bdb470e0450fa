"""What the task holds of its worker, wherever that lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ckpt_async.words.events import Command

if TYPE_CHECKING:
    from ckpt_async.disk.linking import LinkGuard

__all__ = ["GUARD_TIMEOUT_S", "WorkerHandle"]

#: How long links that nobody guards are waited for (it takes some tenths of a second): the task may write to the same files
#: afterwards.
GUARD_TIMEOUT_S = 10.0


class WorkerHandle(Protocol):
    """A running worker. The events that it emits go to the callback that it was made with, in a thread of the handle's own."""

    def start(self) -> None:
        """Start it; returns at once. May be called again after it has died."""

    def send(self, command: Command) -> bool:
        """Pass a command on; returns False where the worker is dead. Never blocks for long."""

    @property
    def link_guard(self) -> LinkGuard | None:
        """Who guards linked files at this moment; None where nobody does, for a process can't guard files from itself."""

    @property
    def alive(self) -> bool:
        """Whether it is running."""

    def join(self, timeout_s: float) -> bool:
        """Wait for its end after a `Close`; returns whether it has ended, everything of it released."""

    def stop(self) -> None:
        """Have a worker end at once that has found nothing to do, and was given nothing; `join` sees its end."""

    def leave(self) -> None:
        """Let go of a worker that goes on by itself, where it can outlive the task; end it, where it can't."""

    def sweep(self) -> None:
        """Let go of what has left the spool without having been stored. Never blocks for long."""

    def give_up(self) -> None:
        """See to it that what the dead worker guarded can be written to, for there will be no other: called after its death."""

    def last_words(self) -> str:
        """What it said when it died; empty where it said nothing."""
