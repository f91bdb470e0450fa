"""Where a save enters the spool: it waits, gives up an older one, or is refused, as `spool.admission` decides."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable

from ckpt_async.flushing import Flusher
from ckpt_async.ledger import Ledger
from ckpt_async.progress import LINE_EVERY_S, readable_seconds
from ckpt_async.spool.admission import Admit, Drop, Limits, Queued, Refuse, SpoolLoad, Wait, decide
from ckpt_async.spool.kept import drop_all_kept
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import version_of
from ckpt_async.supervisor import Supervisor
from ckpt_async.words.errors import InvalidArgument, SaveRefused, SpoolDamaged
from ckpt_async.words.events import EntryDropped
from ckpt_async.words.settings import Settings

__all__ = ["Gate"]


class Gate:
    """Carries the decisions of admission out. One save at a time passes.

    Parameters
    ----------
    ledger : Ledger
        What lies in the spool.
    worker : Supervisor
        Whose uploads make room.
    flusher : Flusher
        Knows which saves have failed.
    spool : Spool
        That is entered.
    settings : Settings
        The limits.
    say : callable
        Prints a line for the user.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: Supervisor,
        flusher: Flusher,
        spool: Spool,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._worker = worker
        self._flusher = flusher
        self._spool = spool
        self._limits = Limits(settings.max_pending, settings.max_pending_bytes, settings.on_full, settings.max_lag_s)
        self._timeout_s = settings.flush_timeout_s
        self._say = say
        self._closed = False
        self._next_line_s = 0.0

    def close(self) -> None:
        """Let no save in any more; one that waits is refused now."""
        self._closed = True
        self._ledger.tell()

    def raise_earlier_failure(self) -> None:
        """Raise where the store has refused an earlier save: a user learns of it at the next ``save()``, not at the end."""
        self._worker.raise_fatal()
        self._flusher.raise_failures("Mend the cause and call flush(), or let the next attempt try again.", told_again=False)

    def pass_in(self, size_bytes: int, name: str, *, latest: bool, group: bool) -> float:
        """Return when a save of this size may enter the spool: how many seconds it had to wait for that.

        Raises
        ------
        SaveRefused
            It could never fit, ``on_full="raise"``, or there was no room for it within `Settings.flush_timeout_s` seconds.
        StoreError
            The store refuses what waits already.
        InvalidArgument
            The gate was closed meanwhile.
        """
        started_s = time.monotonic()
        tried: set[str] = set()
        waited = False
        while True:
            load = self._load(size_bytes, self._ledger.droppable(name, latest=latest, group=group), tried)
            decision = decide(size_bytes, load, self._limits)
            if isinstance(decision, Admit):
                break
            if isinstance(decision, Refuse):
                raise SaveRefused("save a checkpoint", on=self._spool.folder, cause=decision.reason, hint=decision.hint)
            if isinstance(decision, Drop):
                tried.add(decision.entry)
                self._drop(decision)
                continue
            if not waited:
                waited = True
                self._tell_wait(decision)
            self._wait(decision, load.saves, started_s + self._timeout_s)
        return time.monotonic() - started_s if waited else 0.0

    def _load(self, size_bytes: int, superseded: Iterable[Queued], tried: set[str]) -> SpoolLoad:
        saves, held_bytes = self._ledger.held()
        droppable = tuple(queued for queued in superseded if queued.entry not in tried)
        free_bytes = self._free_bytes()
        if free_bytes < size_bytes + self._limits.reserve_bytes and drop_all_kept(self._spool):
            self._say("What was kept on this disk for a next attempt is deleted: save() needs the room. It is in the store.")
            free_bytes = self._free_bytes()
        return SpoolLoad(saves, held_bytes, free_bytes, droppable, self._ledger.lag_s)

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._spool.folder).free
        except OSError as error:
            raise SpoolDamaged(
                "look for room for a save",
                on=self._spool.folder,
                cause=error.strerror or str(error),
                hint="Somebody has removed the spool, or its disk.",
            ) from error

    def _drop(self, decision: Drop) -> None:
        # The worker may have begun it in this moment: then it can't be given up, and the next decision passes it by.
        # Under the ledger's lock, for whoever sees that an entry has left the spool takes it for stored.
        with self._ledger.lock:
            dropped = self._spool.drop(decision.entry)
            if dropped:
                self._ledger.settle_dropped(decision.entry, f"given up for a later save: {decision.reason}")
        if dropped:
            self._worker.sweep()
            self._worker.listeners.tell(EntryDropped(decision.entry, decision.reason))
            self._say(f"Save {version_of(decision.entry)} was dropped before its upload began: {decision.reason}.")

    def _tell_wait(self, decision: Wait) -> None:
        """Where uploads are slower than saves, each one waits: that needs no line for each."""
        if time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self._say(f"save() waits: {decision.reason}.")

    def _wait(self, decision: Wait, held_saves: int, deadline_s: float) -> None:
        def changed() -> bool:
            # A failure that `raise_earlier_failure` would not raise is no news: it would be the same after the next wait.
            return self._closed or self._ledger.held()[0] != held_saves or bool(self._flusher.failures(told_again=False))

        if not self._worker.wait_until(changed, deadline_s):
            raise SaveRefused(
                "save a checkpoint",
                on=self._spool.folder,
                cause=f"{decision.reason}, and the uploads have not changed that in {readable_seconds(self._timeout_s)}",
                hint=self._worker.where_it_lies(),
            )
        if self._closed:
            raise InvalidArgument("save a checkpoint", on=self._spool.folder, cause="the checkpointer was closed meanwhile")
        self.raise_earlier_failure()
