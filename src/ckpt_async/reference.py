"""What a user holds of a save: the reference that ``save()`` returns, and the counts over all of them."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from ckpt_async.words.errors import CheckpointError, CheckpointNotStored, FlushTimeout, SnapshotFailed, SpoolDamaged
from ckpt_async.words.records import CheckpointRecord

__all__ = ["AdoptedSave", "CheckpointReference", "Pending", "SaveState", "Stats", "Status", "Wait"]


#: A wait is woken by news. That it looks now and then all the same is for a wake-up that a signal's handler has swallowed.
LOOK_EVERY_S = 1.0


class Status:
    """The states of a save, as `CheckpointReference.status` tells them.

    ``queued``: safe on local disk, its upload has not begun. ``uploading``: it has. ``committed``: in the store, for everybody
    to see. ``failed``: the store refuses it as things are; it stays on local disk and is tried again at the next flush.
    ``incomplete``: of a group save, this node's part is in the store, and those of other nodes were not all when it was looked.
    ``dropped``: given up for a later save, because the spool was full and ``on_full="drop_oldest"`` allows it.
    ``deleted``: it was in the store, and has been deleted from there, by ``delete()`` or by the rules that say what is kept.
    """

    QUEUED = "queued"
    UPLOADING = "uploading"
    COMMITTED = "committed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    DROPPED = "dropped"
    DELETED = "deleted"


@dataclass
class SaveState:
    """The changing side of a save. Written by the task's ledger, under its lock; each value is read on its own, without it.

    Attributes
    ----------
    taken_s : float
        When it was, on the clock of `time.monotonic`.
    total_bytes, done_bytes : int
        Of its upload.
    told : bool
        Whether its failure has been raised.
    blocked_s, upload_s : float
        Seconds that ``save()`` took, and that the upload took.
    saved_unix_s, started_unix_s, ended_unix_s : float
        When ``save()`` was called, when its upload was begun or taken up again, and when it was settled, in seconds since 1970; 0
        as long as it has not happened.
    sent_bytes, copied_bytes : int
        What went over the line, and what did not: the store copied it, for it had not changed since an earlier save.
    durable : bool
        Whether it has been synced, for ``durability="machine"``.
    not_durable : CheckpointError or None
        Why the disk refuses that.
    methods : dict of str to int
        How many files were taken in which way: ``"link"``, ``"reflink"``, ``"copy"``, ``"packed"``.
    waiters : list of SimpleQueue
        One for each thread that waits for this save.
    on_waited : callable or None
        Told how long the training waited for it.
    given_up : str
        Why no more news of it comes to this process; empty as long as some may.
    """

    entry: str
    size_bytes: int
    status: str = Status.QUEUED
    total_bytes: int = 0
    done_bytes: int = 0
    sent_bytes: int = 0
    copied_bytes: int = 0
    blocked_s: float = 0.0
    upload_s: float = 0.0
    error: CheckpointError | None = None
    reason: str = ""
    told: bool = False
    given_up: str = ""
    durable: bool = False
    not_durable: CheckpointError | None = None
    methods: dict[str, int] = field(default_factory=dict)
    taken_s: float = field(default_factory=time.monotonic, compare=False)
    saved_unix_s: float = field(default_factory=time.time, compare=False)
    started_unix_s: float = field(default=0.0, compare=False)
    ended_unix_s: float = field(default=0.0, compare=False)
    on_waited: Callable[[float], None] | None = field(default=None, repr=False, compare=False)
    waiters: list[SimpleQueue[None]] = field(default_factory=list, repr=False, compare=False)

    def wake(self) -> None:
        """Let whoever waits for this save look at it."""
        for waiter in list(self.waiters):
            waiter.put(None)

    @property
    def settled(self) -> bool:
        """Whether nothing is to be expected any more without a new try."""
        return self.stored or self.status in (Status.FAILED, Status.DROPPED)

    @property
    def stored(self) -> bool:
        """Whether all that this process has saved of it is in the store, or was."""
        return self.status in (Status.COMMITTED, Status.INCOMPLETE, Status.DELETED)

    @property
    def passed_by(self) -> bool:
        """Whether it can't be read back from the spool, and that has been raised: it keeps no later save out."""
        return self.status == Status.FAILED and isinstance(self.error, SpoolDamaged) and self.told

    @property
    def lost(self) -> bool:
        """Whether it failed for good: its files are not what was saved any more, so that no new try can store it."""
        return self.status == Status.FAILED and isinstance(self.error, SnapshotFailed)


class CheckpointReference(dict[str, Any]):
    """A saved checkpoint: its record as a dict, and how far it is.

    Kept in an artifact it is stored as a plain dict with the same content, readable without this package. A save that has not
    reached the store when it is pickled, or that is deleted from there by then, becomes a plain dict of another kind (``type`` is
    ``"checkpoint-not-stored"``, without a ``key``): an artifact never names a checkpoint that does not exist.
    """

    def __init__(self, record: CheckpointRecord, state: SaveState) -> None:
        # A copy: what is done to the dict changes neither the record nor a copy of the reference.
        super().__init__(copy.deepcopy(record.to_dict()))
        self._record = record
        self._state = state

    @property
    def record(self) -> CheckpointRecord:
        """The same content, typed."""
        return self._record

    @property
    def status(self) -> str:
        """One of the values of `Status`."""
        return self._state.status

    @property
    def state(self) -> SaveState:
        """Sizes and times of this save; a view that changes."""
        return self._state

    def done(self) -> bool:
        """Return True once the checkpoint is in the store."""
        return self._state.status == Status.COMMITTED

    @property
    def durable(self) -> bool:
        """Whether this save survives a crash of the machine: it has reached the store, or, with ``durability="machine"``, the disk
        itself. Every save survives the death of its processes.
        """
        return self._state.stored or self._state.durable

    def wait(self, timeout: float | None = None) -> CheckpointReference:
        """Wait until the checkpoint is in the store; of a group save, the part of this node. Returns the reference itself, also
        where the checkpoint has been deleted since: `status` tells.

        Parameters
        ----------
        timeout : float, optional
            Seconds. Without it the wait ends when the upload ends, well or not.

        Raises
        ------
        FlushTimeout
            The time is over; the save is still safe on local disk and under way.
        CheckpointNotStored
            It was dropped, or the store refuses it, or its task ended before it was stored; the cause says which.
        """
        started_s = time.monotonic()
        limit_s = None if timeout is None else started_s + timeout
        # No lock is held, so that the exception of a signal's handler, which may come between any two lines, leaves none taken.
        news: SimpleQueue[None] = SimpleQueue()
        self._state.waiters.append(news)
        try:
            while not self._state.settled and not self._state.given_up:
                left_s = LOOK_EVERY_S if limit_s is None else min(LOOK_EVERY_S, limit_s - time.monotonic())
                if left_s <= 0:
                    raise FlushTimeout(
                        "wait for a checkpoint's upload",
                        on=self["key"],
                        cause=f"it is {self._state.status} after {timeout:g} s",
                        hint="It is safe on local disk and goes on uploading; wait() again, or let the task's end wait for it.",
                    )
                with suppress(Empty):
                    news.get(timeout=left_s)
        finally:
            self._state.waiters.remove(news)
            # What other threads wait for holds no training up.
            if self._state.on_waited is not None and threading.current_thread() is threading.main_thread():
                self._state.on_waited(time.monotonic() - started_s)
        if not self._state.stored:
            raise CheckpointNotStored("store a checkpoint", on=self["key"], cause=self.reason) from self._state.error
        return self

    @property
    def reason(self) -> str:
        """Why it is not in the store; empty once it is."""
        state = self._state
        if state.status == Status.COMMITTED:
            return ""
        if state.status == Status.DELETED:
            return state.reason
        if state.status == Status.INCOMPLETE:
            return "the parts of other nodes were not all in the store when this was written, or it was deleted since"
        if state.error is not None and not state.reason:
            return str(state.error)
        return state.reason or state.given_up or f"it was {state.status} when this was written"

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.done():
            return dict, (dict(self),)
        return dict, (
            {
                "type": "checkpoint-not-stored",
                "name": self["name"],
                "attempt": self["attempt"],
                "version_id": self["version_id"],
                "status": self.status,
                "reason": self.reason,
            },
        )

    # A copy knows how far the save is, as the original does: a plain dict could carry the key of a checkpoint that never comes
    # into being into an artifact.

    def copy(self) -> CheckpointReference:
        """Return a reference to the same save."""
        return self.__copy__()

    def __copy__(self) -> CheckpointReference:
        other = CheckpointReference(self._record, self._state)
        other.clear()
        other.update(self)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> CheckpointReference:
        other = self.__copy__()
        other.update(copy.deepcopy(dict(self), memo))
        return other


@dataclass(frozen=True)
class AdoptedSave:
    """A save that an earlier attempt, or a child process, left, and that this attempt's worker uploads.

    Attributes
    ----------
    name : str
        Of the save.
    attempt, version : int
        Of the save.
    state : SaveState
        A view that changes.
    """

    name: str
    attempt: int
    version: int
    state: SaveState


@dataclass(frozen=True)
class Wait:
    """A time in which the training waited for uploads outside of ``save()``.

    Attributes
    ----------
    unix_s : float
        When it began, in seconds since 1970.
    seconds : float
        How long it took.
    """

    unix_s: float
    seconds: float


@dataclass(frozen=True)
class Pending:
    """What is on local disk and not yet in the store.

    Attributes
    ----------
    saves : int
        How many.
    size_bytes : int
        The bytes of them that the store does not have yet.
    lag_s : float
        How long ago the oldest save was taken whose progress is not in the store, in seconds: so much, and what has come since,
        goes with a machine that is lost now. 0 where all of it is stored.
    """

    saves: int
    size_bytes: int
    lag_s: float = 0.0


@dataclass(frozen=True)
class Stats:
    """The saves of this attempt, counted.

    Attributes
    ----------
    saves, committed, dropped, failed : int
        Saves taken; stored; given up; refused by the store.
    deleted : int
        Of those that were stored: deleted since, by ``delete()`` or by the rules that say what is kept.
    incomplete : int
        Parts of group saves that are stored, while those of other nodes were not all when it was looked.
    saved_bytes, sent_bytes, copied_bytes : int
        Taken by ``save()``; sent over the line; not sent again, because the store had them from an earlier save.
    blocked_s : float
        Seconds that the training was held up by ``save()``: snapshots and waiting.
    waited_s : float
        The part of `blocked_s` that was spent waiting for uploads: for room in the spool, or, without ``async_upload``, for that of
        the save itself.
    flush_s : float
        Seconds that ``flush()``, ``wait()`` in the main thread, and the end of the task waited for uploads.
    upload_s : float
        Seconds of uploading, which is what waiting for each upload would have cost.
    """

    saves: int = 0
    committed: int = 0
    dropped: int = 0
    failed: int = 0
    saved_bytes: int = 0
    sent_bytes: int = 0
    copied_bytes: int = 0
    blocked_s: float = 0.0
    waited_s: float = 0.0
    flush_s: float = 0.0
    upload_s: float = 0.0
    deleted: int = 0
    incomplete: int = 0
