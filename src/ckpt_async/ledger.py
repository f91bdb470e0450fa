"""The task's book of its saves: one line each, brought up to date by the worker's events."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ckpt_async.reference import AdoptedSave, CheckpointReference, Pending, SaveState, Stats, Status, Wait
from ckpt_async.spool.admission import Queued
from ckpt_async.words.errors import CheckpointError, from_wire
from ckpt_async.words.events import (
    AdoptionEnded,
    CheckpointPruned,
    EntryCommitted,
    EntryDurable,
    EntryFailed,
    EntryProgress,
    EntryStarted,
    Event,
    LinksGuarded,
    Trouble,
    WorkerReady,
)
from ckpt_async.words.records import CheckpointRecord

__all__ = ["Ledger", "Outstanding"]

#: A shorter wait is none: whatever was asked for was there.
LEAST_WAIT_S = 0.001


@dataclass(frozen=True)
class Outstanding:
    """What a flush waits for.

    Attributes
    ----------
    saves, size_bytes : int
        Of this attempt: not settled, and the bytes of them that the store lacks.
    adopting : tuple of str
        Earlier attempts, and child processes that have ended, whose spools are still being emptied.
    """

    saves: int
    size_bytes: int
    adopting: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.saves or self.adopting)


class Ledger:
    """Thread-safe. `lock` guards it, and may be taken twice by a thread: a signal's handler may come in the middle of a call.

    The lock is taken by ``with ledger.lock``, never through the condition: entering that is Python code, and the exception of a
    signal's handler between its lines would leave the lock taken for ever.

    Parameters
    ----------
    adopting : iterable of str
        The earlier attempts that left something.
    unguarded : iterable of str
        Those of them whose links a worker is yet to guard.
    """

    def __init__(self, adopting: Iterable[str] = (), unguarded: Iterable[str] = ()) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        #: Both in the order of the saves. All of them, and those without which an answer would be another: what a save
        #: costs must not grow with the number of those before it.
        self._references: dict[str, CheckpointReference] = {}
        self._live: dict[str, CheckpointReference] = {}
        #: The entries by the keys of their checkpoints.
        self._entries: dict[str, str] = {}
        self._newest_stored = ""
        self._adopting = set(adopting)
        self._unguarded = set(unguarded)
        #: Those of `_adopting` that a worker knows of because it was told.
        self._children: set[str] = set()
        self.adoption_errors: dict[str, CheckpointError] = {}
        #: The transient failure that is being retried now.
        self.trouble: CheckpointError | None = None
        #: What earlier attempts and child processes left and a worker of this attempt has begun to upload.
        self._adopted: dict[str, AdoptedSave] = {}
        self._waited_s = 0.0
        self._waits: list[Wait] = []
        self._given_up = ""

    def open(
        self, record: CheckpointRecord, entry: str, size_bytes: int, *, methods: dict[str, int] | None = None
    ) -> CheckpointReference:
        """Enter a save that is about to be published."""
        state = SaveState(entry, size_bytes, total_bytes=size_bytes, methods=methods or {}, on_waited=self.charge_flush)
        reference = CheckpointReference(record, state)
        with self.lock:
            state.given_up = self._given_up
            self._references[entry] = self._live[entry] = reference
            self._entries[record.key] = entry
        return reference

    def cancel(self, entry: str) -> None:
        """Take a save back that could not be published."""
        with self.lock:
            cancelled = self._references.pop(entry, None)
            if cancelled is not None:
                self._entries.pop(cancelled.record.key, None)
            self._live.pop(entry, None)
            self._changed.notify_all()

    def settle_dropped(self, entry: str, reason: str) -> None:
        """A save was given up."""
        with self.lock:
            state = self._references[entry].state
            state.status, state.reason, state.ended_unix_s = Status.DROPPED, reason, time.time()
            self._let_go()
            state.wake()
            self._changed.notify_all()

    def settle_deleted(self, key: str, reason: str) -> None:
        """A checkpoint is not in the store any more; one that is none of these saves is passed by."""
        with self.lock:
            state = self._references[self._entries[key]].state if key in self._entries else None
            if state is not None and state.stored:
                state.status, state.reason = Status.DELETED, reason

    def _settle_there(self, key: str) -> None:
        state = self._references[self._entries[key]].state if key in self._entries else None
        if state is not None and state.status == Status.DELETED:
            state.status, state.reason = Status.COMMITTED, ""

    def settle_missing(self, stored: Collection[str], reason: str) -> None:
        """Only the checkpoints with these keys are in the store."""
        with self.lock:
            for reference in self._references.values():
                if reference.status == Status.COMMITTED and reference.record.key not in stored:
                    self.settle_deleted(reference.record.key, reason)

    def by_key(self, key: str) -> CheckpointReference | None:
        """Return the save with this key; None where it is none of these."""
        with self.lock:
            return self._references.get(self._entries.get(key, ""))

    def charge(self, reference: CheckpointReference, blocked_s: float) -> None:
        """Note how long a ``save()`` held the training up."""
        with self.lock:
            reference.state.blocked_s = blocked_s
            reference.state.saved_unix_s = time.time() - blocked_s

    def charge_wait(self, waited_s: float) -> None:
        """Note how long a ``save()`` waited for an upload, or for room."""
        with self.lock:
            self._waited_s += waited_s

    def charge_flush(self, seconds: float) -> None:
        """Note how long the training waited outside of ``save()``. Takes no lock."""
        if seconds >= LEAST_WAIT_S:
            self._waits.append(Wait(time.time() - seconds, seconds))

    @property
    def waits(self) -> tuple[Wait, ...]:
        """The times of such waits."""
        return tuple(self._waits)

    def apply(self, event: Event) -> None:
        """Bring the book up to date."""
        with self.lock:
            if isinstance(event, WorkerReady):
                # It will tell of all that it has found, also where the worker before it did so; of anything else (finished and
                # removed by its own sidecar) nobody will.
                self.trouble = None
                self._adopting = set(event.adopting) | self._children
                self._unguarded &= self._adopting
                self.adoption_errors.clear()
            elif isinstance(event, Trouble):
                self.trouble = from_wire(event.error) if event.failures else None
            elif isinstance(event, LinksGuarded):
                self._unguarded.discard(event.attempt)
            elif isinstance(event, AdoptionEnded):
                self._adopting.discard(event.attempt)
                self._children.discard(event.attempt)
                self._unguarded.discard(event.attempt)
                self.adoption_errors.pop(event.attempt, None)
                if event.left:
                    self.adoption_errors[event.attempt] = from_wire(event.error)
            elif isinstance(event, CheckpointPruned):
                if event.deleted:
                    self.settle_deleted(event.key, f"{event.rules} does not keep it: it was deleted")
                else:
                    self._settle_there(event.key)
            elif isinstance(event, EntryDurable):
                if event.entry in self._references:
                    state = self._references[event.entry].state
                    state.durable = not event.error
                    state.not_durable = from_wire(event.error) if event.error else None
            elif isinstance(event, (EntryStarted, EntryProgress, EntryCommitted, EntryFailed)):
                reference = self._references.get(event.entry)
                if reference is None:
                    self._note_adopted(event)
                elif reference.status not in (Status.DROPPED, Status.DELETED):
                    _apply_to(reference.state, event)
                    if reference.state.stored:
                        self._newest_stored = max(self._newest_stored, event.entry)
                        self._let_go()
                    reference.state.wake()
            self._changed.notify_all()

    def _note_adopted(self, event: EntryStarted | EntryProgress | EntryCommitted | EntryFailed) -> None:
        # What the worker adopts has the name of its spool before its own.
        if isinstance(event, EntryStarted) and "/" in event.entry and event.entry not in self._adopted:
            state = SaveState(event.entry, event.total_bytes)
            self._adopted[event.entry] = AdoptedSave(event.name, event.attempt, event.version, state)
        if (adopted := self._adopted.get(event.entry)) is not None:
            _apply_to(adopted.state, event)

    @property
    def adopted(self) -> tuple[AdoptedSave, ...]:
        """What earlier attempts and child processes left, as far as a worker of this attempt has begun to upload it."""
        with self.lock:
            return tuple(self._adopted.values())

    def _let_go(self) -> None:
        """Let the oldest saves go that are settled: they supersede none that waits, and their progress is in the store."""
        for entry, reference in list(self._live.items()):
            state = reference.state
            if state.stored or (state.status == Status.DROPPED and entry < self._newest_stored):
                del self._live[entry]
            elif not (state.lost or state.passed_by):
                return

    def begin_adopting(self, children: Iterable[str]) -> None:
        """Wait from now on for what these child processes left, too."""
        with self.lock:
            self._children.update(children)
            self._adopting |= self._children

    @property
    def children(self) -> tuple[str, ...]:
        """The child processes whose spools are still being emptied."""
        with self.lock:
            return tuple(sorted(self._children))

    def reopen_failed(self) -> bool:
        """Count the failed saves as under way again, and what earlier attempts left; returns whether there are any."""
        with self.lock:
            failed = [reference.state for reference in self.failures(lost=False)]
            for state in failed:
                state.status, state.error = Status.QUEUED, None
            left = set(self.adoption_errors)
            self._adopting |= left
            self.adoption_errors.clear()
            return bool(failed or left)

    def is_part(self, entry: str) -> bool:
        """Return whether a save is a part of a group's."""
        with self.lock:
            return self._references[entry].record.group

    def incomplete(self) -> dict[str, str]:
        """Return the entries of the groups that are not known to be visible, by the keys of their checkpoints."""
        with self.lock:
            found = {entry: reference for entry, reference in self._references.items() if reference.status == Status.INCOMPLETE}
            return {reference.record.key: entry for entry, reference in found.items()}

    def complete(self, entries: Iterable[str]) -> None:
        """These are visible."""
        with self.lock:
            for entry in entries:
                self._references[entry].state.status = Status.COMMITTED

    def unsettled(self) -> list[str]:
        """Return the entries of the saves of which news is to be expected."""
        with self.lock:
            return [entry for entry, reference in self._live.items() if not reference.state.settled]

    @property
    def unguarded(self) -> tuple[str, ...]:
        """The earlier attempts whose links nobody guards yet, as far as is known."""
        with self.lock:
            return tuple(sorted(self._unguarded))

    @property
    def has_stored_latest(self) -> bool:
        """Whether a save of this attempt that a retry would resume from is in the store."""
        with self.lock:
            return any(reference.record.latest and reference.done() for reference in self._references.values())

    def give_up(self, reason: str) -> None:
        """There will be no more news of what is not settled, nor of what is saved yet: nobody waits for it any longer."""
        with self.lock:
            self._given_up = reason
            for entry in self.unsettled():
                self._references[entry].state.given_up = reason
                self._references[entry].state.wake()
            self._changed.notify_all()

    def outstanding(self) -> Outstanding:
        """Return what is not settled."""
        with self.lock:
            open_states = [reference.state for reference in self._live.values() if not reference.state.settled]
            return Outstanding(
                len(open_states),
                sum(max(0, state.total_bytes - state.done_bytes) for state in open_states),
                tuple(sorted(self._adopting)),
            )

    def wait_until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a state of the book, at most so long; returns whether it is reached."""
        with self.lock:
            return self._changed.wait_for(reached, min(timeout_s, threading.TIMEOUT_MAX))

    def tell(self) -> None:
        """Let whoever waits look again at what is not in the book."""
        with self.lock:
            self._changed.notify_all()

    def failures(self, *, lost: bool = True) -> list[CheckpointReference]:
        """Return the saves that the store refuses, and, unless that is not asked for, those that are lost: see `SaveState.lost`."""
        with self.lock:
            failed = [reference for reference in self._live.values() if reference.status == Status.FAILED]
            return [reference for reference in failed if lost or not reference.state.lost]

    def references(self) -> list[CheckpointReference]:
        """Return all saves, in the order in which they were taken."""
        with self.lock:
            found = list(self._references.items())
        # Outside of the lock, which save() needs.
        return [reference for _, reference in sorted(found, key=operator.itemgetter(0))]

    def droppable(self, name: str, *, latest: bool, group: bool) -> tuple[Queued, ...]:
        """Return the saves that may be given up for a new one called `name`, oldest first: not begun, and superseded.

        One that a retry would resume from is superseded only by a later one of which that is true as well. A part of a group save
        supersedes nothing: what other nodes do not complete, nobody resumes from.
        """
        with self.lock:
            found = []
            later = set() if group else {(name, False), (name, latest)}
            for entry, reference in reversed(self._live.items()):
                kind = reference.record.name, reference.record.latest
                # A part that is given up here would leave those of all other nodes behind.
                if reference.status == Status.QUEUED and kind in later and not reference.record.group:
                    found.append(Queued(entry, reference.state.size_bytes))
                if reference.status != Status.DROPPED and not reference.state.lost and not reference.record.group:
                    later |= {(reference.record.name, False), kind}
            return tuple(reversed(found))

    def _kept(self) -> list[SaveState]:
        states = [reference.state for reference in self._live.values()]
        return [state for state in states if not (state.stored or state.status == Status.DROPPED or state.lost)]

    def held(self) -> tuple[int, int]:
        """Return how many saves lie in the spool, and their bytes; without those whose damage has been told, which would keep the
        room that they have for ever.
        """
        with self.lock:
            states = [state for state in self._kept() if not state.passed_by]
            return len(states), sum(state.size_bytes for state in states)

    @property
    def lag_s(self) -> float:
        """How long ago the oldest save was taken whose progress is not in the store, in seconds; 0 where all of it is.

        One that was given up counts until the later one is in the store. One that is lost has been told, and no wait brings it
        back.
        """
        oldest_s: float | None = None
        with self.lock:
            stored_later = False
            for reference in reversed(self._live.values()):
                state = reference.state
                if state.stored:
                    stored_later = True
                elif state.status == Status.DROPPED:
                    oldest_s = state.taken_s if oldest_s is not None and not stored_later else oldest_s
                elif not (state.lost or state.passed_by):
                    oldest_s = state.taken_s
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    @property
    def pending(self) -> Pending:
        """What is not in the store yet."""
        with self.lock:
            states = self._kept()
            left_bytes = sum(max(0, state.total_bytes - state.done_bytes) for state in states)
            return Pending(len(states), left_bytes, self.lag_s)

    @property
    def stats(self) -> Stats:
        """The counts up to now."""
        with self.lock:
            references = list(self._references.values())
        # Outside of the lock, which save() needs.
        states = [reference.state for reference in references]
        return Stats(
            saves=len(states),
            committed=sum(state.status in (Status.COMMITTED, Status.DELETED) for state in states),
            dropped=sum(state.status == Status.DROPPED for state in states),
            failed=sum(state.status == Status.FAILED for state in states),
            saved_bytes=sum(state.size_bytes for state in states),
            sent_bytes=sum(state.sent_bytes for state in states),
            copied_bytes=sum(state.copied_bytes for state in states),
            blocked_s=sum(state.blocked_s for state in states),
            waited_s=self._waited_s,
            flush_s=sum(wait.seconds for wait in self.waits),
            upload_s=sum(state.upload_s for state in states),
            deleted=sum(state.status == Status.DELETED for state in states),
            incomplete=sum(state.status == Status.INCOMPLETE for state in states),
        )


def _apply_to(state: SaveState, event: EntryStarted | EntryProgress | EntryCommitted | EntryFailed) -> None:
    if isinstance(event, EntryStarted):
        state.status, state.total_bytes = Status.UPLOADING, event.total_bytes
        state.started_unix_s = event.unix_s or time.time()
    elif isinstance(event, EntryProgress):
        state.done_bytes = event.done_bytes
    elif isinstance(event, EntryCommitted):
        state.status = Status.COMMITTED if event.visible else Status.INCOMPLETE
        state.error, state.done_bytes = None, state.total_bytes
        state.sent_bytes, state.copied_bytes, state.upload_s = event.sent_bytes, event.copied_bytes, event.seconds
        state.ended_unix_s = event.unix_s or time.time()
    else:
        state.status, state.error = Status.FAILED, from_wire(event.error)
        state.ended_unix_s = event.unix_s or time.time()
