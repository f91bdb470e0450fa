"""Keeps the worker alive, waits for it with signs of life, and ends it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ckpt_async.ledger import Ledger, Outstanding
from ckpt_async.listeners import Listeners
from ckpt_async.progress import FIRST_LINE_S, LINE_EVERY_S, Rate, readable_seconds, standstill_line, waiting_line
from ckpt_async.spool.neighbours import child_spools, remove_dead_spool, remove_spool
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.words.errors import CheckpointError, SnapshotFailed, SpoolDamaged, WorkerDied, from_wire
from ckpt_async.words.events import (
    Adopt,
    Close,
    Command,
    EntryCommitted,
    EntryDurable,
    EntryFailed,
    Event,
    Notice,
    Press,
    Trouble,
    WorkerReady,
)
from ckpt_async.worker.handle import WorkerHandle

if TYPE_CHECKING:
    from ckpt_async.disk.linking import LinkGuard

__all__ = ["MakeWorker", "Supervisor"]

MakeWorker = Callable[[Callable[[Event], None], Callable[[], None]], WorkerHandle]

#: A worker that dies more often than this without having stored anything in between is not started again.
MAX_DEATHS = 5

#: How long a worker with nothing left to do may take to end.
END_TIMEOUT_S = 15.0

#: How much longer where it may have checkpoints to delete that the rules don't keep.
PRUNE_TIMEOUT_S = 60.0

#: Likewise where a deadline presses.
PRESSED_PRUNE_TIMEOUT_S = 5.0


class Supervisor:
    """Owns the worker of a task.

    Parameters
    ----------
    ledger : Ledger
        Brought up to date by the worker's events.
    make_worker : callable
        Makes the worker from two callbacks, for events and for its death.
    header : SpoolHeader
        Of the spool.
    spool : Spool
        Whose task lock the caller holds.
    say : callable
        Prints a line for the user.
    """

    def __init__(
        self, ledger: Ledger, make_worker: MakeWorker, header: SpoolHeader, spool: Spool, say: Callable[[str], None]
    ) -> None:
        self.listeners = Listeners(say)
        self._ledger = ledger
        self._header = header
        self._spool = spool
        self._found_nothing = not ledger.outstanding()
        self._say = say
        self._worker = make_worker(self._on_event, self._on_death)
        self._starting = threading.Lock()
        self._started = False
        self._ending = False
        self._deaths = 0
        self._pressed = False
        self._told_lost: set[str] = set()
        self._stands_still = False
        self._notices: set[str] = set()
        self._fatal: CheckpointError | None = None

    def ensure_started(self) -> None:
        """Start the worker where that has not been done yet.

        Raises
        ------
        WorkerDied
            The operating system refuses.
        """
        with self._starting:
            if not self._started:
                self._start()
                self._started = True

    def _start(self) -> None:
        try:
            self._worker.start()
        except OSError as error:
            raise WorkerDied(
                "start the uploader",
                on=self._spool.folder,
                cause=error.strerror or str(error),
                hint="What was saved is kept there. Where no child process is allowed, use worker='thread'.",
            ) from error
        if self._pressed:
            self.send(Press())

    def send(self, command: Command) -> None:
        """Pass a command on. A dead worker needs none: the next one looks into the spool by itself."""
        self._worker.send(command)

    def _on_event(self, event: Event) -> None:
        self._ledger.apply(event)
        if isinstance(event, WorkerReady):
            # What the worker before it could not do, this one tries anew, and tells anew.
            self._stands_still = False
        if isinstance(event, EntryCommitted):
            self._deaths = 0
        elif isinstance(event, WorkerReady) and (children := self._ledger.children):
            # The worker before it may have died with them.
            self.send(Adopt(children))
        elif isinstance(event, EntryDurable) and event.error:
            self._say(str(from_wire(event.error)))
        elif isinstance(event, EntryFailed):
            self._say_lost(event)
        elif isinstance(event, Trouble):
            self._say_standstill(event)
        elif isinstance(event, Notice) and event.text not in self._notices:
            self._notices.add(event.text)
            self._say(event.text)
        self.listeners.tell(event)

    def _say_lost(self, event: EntryFailed) -> None:
        """A save that can't be tried again is told at once, and once."""
        error = from_wire(event.error)
        if isinstance(error, SnapshotFailed) and event.entry not in self._told_lost:
            self._told_lost.add(event.entry)
            self._say(f"A save is lost: {error}")

    def _say_standstill(self, event: Trouble) -> None:
        """A store that fails once is none of the user's business. One that goes on failing is told of, once until that is over."""
        if event.failures > 1 and not self._stands_still:
            self._stands_still = True
            self._say(standstill_line(str(from_wire(event.error)), self.where_it_lies()))
        elif not event.failures and self._stands_still:
            self._stands_still = False
            self._say("The uploads go on: the store answers again.")

    def _on_death(self) -> None:
        """Start the worker again, in the thread that saw it die."""
        with self._starting:
            if self._ending:
                return
            self._deaths += 1
            self.listeners.worker_died()
            self._catch_up()
            if self._start_again():
                return
        # Whoever wants to write to what is linked waits for this; nobody else does.
        self._worker.give_up()

    def _start_again(self) -> bool:
        words = self._worker.last_words()
        if self._deaths > MAX_DEATHS:
            error = WorkerDied(
                "keep the uploader alive",
                on=self._spool.folder,
                cause=f"it died {self._deaths} times in a row; its last words: {words[-500:] or 'none'}",
                hint="What was saved is kept there, and the next attempt uploads it.",
            )
            self._set_fatal(error)
            return False
        self._say(f"The uploader ended unexpectedly and is started again; nothing is lost. {words[-300:]}".rstrip())
        try:
            self._start()
        except WorkerDied as error:
            self._set_fatal(error)
            return False
        return True

    def _catch_up(self) -> None:
        """Learn of what a worker stored whose death swallowed the news, and of a spool that somebody has removed. While it runs no
        worker does, or there is no spool: an entry that is in the spool no more is in the store, unless the spool itself is gone.
        """
        news: list[Event] = []
        with self._ledger.lock:
            gone = [entry for entry in self._ledger.unsettled() if not self._spool.holds(entry)]
            try:
                if gone:
                    self._spool.header()
                # Whether that made a group save visible, the next look tells.
                news += [EntryCommitted(entry, 0, 0.0, visible=not self._ledger.is_part(entry)) for entry in gone]
            except (SpoolDamaged, OSError) as error:
                damage = SpoolDamaged(
                    "keep what was saved",
                    on=self._spool.folder,
                    cause=f"somebody has removed or damaged the spool: {error}",
                    hint="Save again. What had reached the store before is there.",
                )
                news += [EntryFailed(entry, damage.to_wire()) for entry in gone]
            for event in news:
                self._ledger.apply(event)
        for event in news:
            self.listeners.tell(event)

    def _set_fatal(self, error: CheckpointError) -> None:
        with self._ledger.lock:
            self._fatal = error
            self._ledger.give_up(str(error))

    def sweep(self) -> None:
        """Have the worker let go of what has left the spool."""
        self._worker.sweep()

    @property
    def link_guard(self) -> LinkGuard | None:
        """Who guards linked files at this moment."""
        return self._worker.link_guard

    @property
    def guards_left_links(self) -> bool:
        """Whether the linked files that earlier attempts left are guarded, by this worker or by one of theirs."""
        guard = self._worker.link_guard
        return guard is not None and guard.wait_ready(0.0) and not self._ledger.unguarded

    def raise_fatal(self) -> None:
        """Raise where there is no worker and none can be had."""
        if self._fatal is not None:
            raise self._fatal

    def where_it_lies(self) -> str:
        """Return a sentence on where what was saved is kept."""
        return f"What was saved is kept in {self._spool.folder}."

    @property
    def _prune_timeout_s(self) -> float:
        settings = self._header.settings
        longest_s = PRESSED_PRUNE_TIMEOUT_S if self._pressed else PRUNE_TIMEOUT_S
        return min(longest_s, settings.flush_timeout_s) if settings.keep_rules else 0.0

    def _join(self) -> bool:
        """Wait for the end of a worker that has stored everything; returns whether it has ended."""
        if not self._prune_timeout_s:
            return self._worker.join(END_TIMEOUT_S)
        if self._worker.join(FIRST_LINE_S):
            return True
        self._say(
            f"Everything is stored. Checkpoints that {self._header.settings.keep_rules} does not keep are being deleted, for "
            f"{readable_seconds(self._prune_timeout_s)} at most."
        )
        # What it has to say when the time is over comes before its end.
        return self._worker.join(self._prune_timeout_s + 2 * END_TIMEOUT_S)

    # Waiting

    def wait_guarded(self, timeout_s: float) -> None:
        """Wait until the links of earlier attempts are guarded: from then on this task may write to the same files."""
        if not self._ledger.wait_until(lambda: not self._ledger.unguarded or self._fatal is not None, timeout_s):
            self._say(
                f"What earlier attempts left in links is not guarded after {readable_seconds(timeout_s)}: the uploader is slow to "
                "start. A save of theirs is lost if its files are overwritten before it does; that would be noticed, and told."
            )

    def wait_until(self, reached: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for a state of the ledger until `deadline_s` on the monotonic clock, with a line now and then; returns whether
        it is reached.

        Raises
        ------
        WorkerDied
            There is no worker any more that could reach it.
        """
        next_line_s, told, was_removed = time.monotonic() + FIRST_LINE_S, "", False
        rate = Rate(self._ledger.outstanding().size_bytes, time.monotonic())
        while True:
            now_s = time.monotonic()
            step_s = max(0.0, min(next_line_s, deadline_s) - now_s)
            if self._ledger.wait_until(lambda: reached() or self._fatal is not None, step_s):
                self.raise_fatal()
                return True
            now_s = time.monotonic()
            if now_s >= deadline_s:
                return False
            if now_s >= next_line_s:
                next_line_s = now_s + LINE_EVERY_S
                is_removed = not os.path.isdir(self._spool.folder)
                if is_removed and was_removed:
                    # A worker removes it too, when it is empty; then there would have been news since the last look.
                    self._catch_up()
                    continue
                was_removed = is_removed
                trouble = str(self._ledger.trouble or "")
                self._say(self._line(self._ledger.outstanding(), rate, now_s, trouble, told))
                told = trouble

    def _line(self, outstanding: Outstanding, rate: Rate, now_s: float, trouble: str, told: str) -> str:
        return waiting_line(
            outstanding.saves,
            outstanding.size_bytes,
            rate.bytes_per_s(outstanding.size_bytes, now_s),
            store=self._header.address.url,
            trouble=trouble,
            told=told,
            adopting=len(outstanding.adopting),
        )

    def press(self) -> None:
        """Have the newest save stored first from now on, also by a worker that is started later."""
        self._pressed = True
        self.send(Press())

    # Ending

    def shut_down(self) -> None:
        """End the worker; one with work left goes on by itself if it can. An empty spool is removed."""
        with self._starting:
            self._ending = True
            started = self._started
        if started:
            finished = not self._ledger.outstanding() and not self._ledger.failures(lost=False) and self._fatal is None
            if finished and self._found_nothing and not self._ledger.references():
                # It may still be starting, and a task that never saves need not wait for that.
                self._worker.stop()
            self.send(Close((self._prune_timeout_s or END_TIMEOUT_S) if finished else self._header.settings.flush_timeout_s))
            if not finished or not self._join():
                self._worker.leave()
                self._ledger.give_up(f"its task ended before it was stored. {self.where_it_lies()}")
                return
        try:
            for lost in self._ledger.failures():
                # The flush before this has told it; there is nothing in it that could be stored.
                self._spool.drop(lost.state.entry)
            for child in child_spools(self._spool.folder):
                # Of one that was killed before it had saved anything.
                remove_dead_spool(child)
            remove_spool(self._spool)
        except OSError as error:
            # Everything is in the store: an empty folder that stays is no reason to fail a task.
            self._say(f"The empty spool {self._spool.folder} could not be removed: {error.strerror or error}")
