"""Waits until what was saved is in the store, and tells of what is not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ckpt_async.ledger import Ledger
from ckpt_async.leftovers import refusal, refused_attempt, whose
from ckpt_async.progress import left_words, readable_seconds
from ckpt_async.reference import CheckpointReference
from ckpt_async.spool.neighbours import dead_children
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.supervisor import Supervisor
from ckpt_async.words.errors import CheckpointError, FlushTimeout, StoreError
from ckpt_async.words.events import Adopt, Retry, Wake

if TYPE_CHECKING:
    from ckpt_async.reader import Reader

__all__ = ["Flusher"]

#: How long a look at the store may take where the time of a flush is used up.
LEAST_LOOK_S = 5.0


class Flusher:
    """Waits for the uploads of a task.

    Parameters
    ----------
    ledger : Ledger
        Of its saves.
    worker : Supervisor
        That uploads them.
    header : SpoolHeader
        Of the spool.
    spool : Spool
        In which they lie.
    reader : Reader
        Of the store that gets them.
    say : callable
        Prints a line for the user.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: Supervisor,
        header: SpoolHeader,
        spool: Spool,
        reader: Reader,
        say: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._worker = worker
        self._header = header
        self._spool = spool
        self._reader = reader
        self._say = say

    def wait_settled(self, reference: CheckpointReference, timeout_s: float) -> None:
        """Wait until a save is stored, or refused."""
        if not self._worker.wait_until(lambda: reference.state.settled, time.monotonic() + timeout_s):
            raise self._timeout("store a checkpoint", timeout_s)

    def flush(self, timeout_s: float, *, newest_first: bool = False) -> None:
        """Wait until everything saved is stored; see `ckpt_async.checkpointer.Checkpointer.flush`."""
        started_s = time.monotonic()
        try:
            self._flush(started_s + timeout_s, timeout_s, newest_first=newest_first)
        finally:
            self._ledger.charge_flush(time.monotonic() - started_s)

    def _flush(self, deadline_s: float, timeout_s: float, *, newest_first: bool) -> None:
        self._worker.raise_fatal()
        if self._ledger.reopen_failed():
            self._worker.send(Retry())
        if self._ledger.outstanding().saves:
            # A signal's exception, or one that a listener let through, may have ended a save() before it could wake the worker.
            self._worker.ensure_started()
            self._worker.send(Wake())
        self._adopt_children()
        if newest_first:
            self._worker.press()
        if not self._worker.wait_until(lambda: not self._ledger.outstanding(), deadline_s):
            raise self._timeout("flush", timeout_s)
        refused = self._say_left()
        self.raise_failures()
        if refused is not None:
            raise refused
        self._look_at_groups(deadline_s)

    def _look_at_groups(self, deadline_s: float) -> None:
        """Learn which of the groups are visible by now whose last part was another node's."""
        incomplete = self._ledger.incomplete()
        if not incomplete:
            return
        # The flush may have used up all of its time.
        left_s = max(deadline_s - time.monotonic(), LEAST_LOOK_S)
        try:
            visible = self._reader.visible(list(incomplete), timeout_s=left_s)
        except (StoreError, TimeoutError) as error:
            self._say(f"Which group saves are complete is not known: {str(error) or 'the store does not answer'}")
            return
        self._ledger.complete(incomplete[key] for key in visible)

    def _adopt_children(self) -> None:
        """Have what child processes left that have ended uploaded. One that is alive sees to its own save."""
        try:
            children = [os.path.basename(folder) for folder in dead_children(self._spool.folder)]
        except OSError as error:
            self._say(f"What child processes left is not known ({error.filename}): {error.strerror or error}")
            return
        if children:
            self._worker.ensure_started()
            self._ledger.begin_adopting(children)
            self._worker.send(Adopt(tuple(children)))

    def _say_left(self) -> CheckpointError | None:
        """Say what earlier attempts and child processes left and could not be stored; return what is to be raised of it instead. A
        save of this attempt that failed is raised before it.
        """
        left = dict(self._ledger.adoption_errors)
        raised = refused_attempt(left, superseded=self._ledger.has_stored_latest) if not self._ledger.failures() else None
        for attempt, error in left.items():
            if attempt != raised:
                self._say(f"What {whose(attempt)} left could not be stored: {error}")
        if raised is None:
            return None
        return refusal(left[raised], raised, os.path.join(os.path.dirname(self._spool.folder), raised))

    def failures(self, *, told_again: bool) -> list[CheckpointReference]:
        """Return the failed saves that `raise_failures` tells of."""
        failures = self._ledger.failures(lost=told_again)
        return [failed for failed in failures if told_again or not failed.state.passed_by]

    def raise_failures(self, hint: str = "", *, told_again: bool = True) -> None:
        """Raise why the newest of the failed saves is not stored, if there is one.

        Parameters
        ----------
        hint : str
            Added to the error's.
        told_again : bool
            Whether what nobody can mend is raised: damage to the spool that has been raised before, and the loss of a save, which
            has been said. Told once, it must not keep later saves out.
        """
        failures = self.failures(told_again=told_again)
        if failures:
            for failed in failures:
                failed.state.told = True
            error = failures[-1].state.error
            assert error is not None
            count = "1 save is" if len(failures) == 1 else f"{len(failures)} saves are"
            raise type(error)(
                error.attempted,
                on=error.on,
                cause=f"{error.cause} ({count} not in the store)",
                hint=" ".join(part for part in (error.hint, self._worker.where_it_lies(), hint) if part),
            ) from error

    def _timeout(self, attempted: str, timeout_s: float) -> FlushTimeout:
        outstanding = self._ledger.outstanding()
        trouble = self._ledger.trouble
        lies = self._worker.where_it_lies()
        left = left_words(outstanding.saves, outstanding.size_bytes, len(outstanding.adopting))
        cause = f"after {readable_seconds(timeout_s)}, this is not stored: {left}"
        if trouble is not None:
            cause += f"; the last trouble was: {trouble}"
        return FlushTimeout(
            attempted,
            on=self._header.address.url,
            cause=cause,
            hint=f"{lies} The next attempt on this machine uploads it; a longer flush_timeout gives it more time.",
        )
