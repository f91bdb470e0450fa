"""One attempt of a task, from the opening of its checkpointer to the end on every kind of exit."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ckpt_async import CheckpointError, FlushTimeout, StoreError, TaskIdentity, next_save_number, readable_bytes, saves_words

from . import artifacts
from .apart import Apart, run_apart
from .attributes import CheckpointAttributes
from .callbacks import import_callback
from .card import CheckpointCard, NoCard
from .current import CurrentCheckpoint
from .directory import link_to_directory, make_directory, remove_directories_of_dead_attempts, remove_link
from .environment import TaskPlace, export_task
from .output import say, time_text
from .signals import StopSignals, stop_alarm
from .spot import SpotWatch, notice_file

if TYPE_CHECKING:
    from ckpt_async import Checkpointer, CheckpointRecord, Watcher

__all__ = ["TaskSession"]

#: How long a failing attempt waits for its card, and one that a signal has stopped, whose artifacts are yet to be kept.
RENDER_TIMEOUT_S = 60.0
STOPPED_RENDER_S = 2.0


class TaskSession:
    """Owns what `@checkpoint` opens for one attempt: checkpointer, checkpoint directory, signal handlers and card.

    Parameters
    ----------
    flow : FlowSpec
        Gets the artifacts.
    identity : TaskIdentity
        Of the attempt.
    place : TaskPlace
        Where the checkpoints go.
    attributes : CheckpointAttributes
        Of the decorator.
    with_card : bool
        Whether this task updates the card.
    leave_out_card : callable
        See `CheckpointCard`.
    last_attempt : bool
        Whether Metaflow repeats the task no more.

    Attributes
    ----------
    current : CurrentCheckpoint
        For the step's code.
    loaded : CheckpointRecord or None
        What was loaded into the checkpoint directory.

    Raises
    ------
    CheckpointError
        A checkpoint exists and can't be loaded, or the local folders can't be made. Nothing is left open then.
    """

    def __init__(
        self,
        flow: Any,
        identity: TaskIdentity,
        place: TaskPlace,
        attributes: CheckpointAttributes,
        *,
        with_card: bool,
        leave_out_card: Callable[[], None] = lambda: None,
        last_attempt: bool,
    ) -> None:
        from ckpt_async import open_checkpointer

        self._flow = flow
        self._place = place
        self._attributes = attributes
        self._last_attempt = last_attempt
        self._ended = False
        self._owner_pid = os.getpid()
        self._signals = StopSignals(say)
        self._card = NoCard(leave_out_card)
        self._spot: SpotWatch | None = None
        self._watcher: Watcher | None = None
        self._link: str | None = None
        self._passed_over: set[str] = set()
        self._deleted: set[str] = set()
        self.loaded: CheckpointRecord | None = None
        self._directory = make_directory(attributes.temp_dir_root, identity, place.node_index)
        try:
            self._checkpointer: Checkpointer = open_checkpointer(
                identity,
                place.address,
                attributes.settings,
                scratch_root=place.scratch_root,
                say=say,
                node_index=place.node_index,
                num_nodes=place.num_nodes,
            )
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        try:
            if attributes.on_event is not None:
                self._checkpointer.add_listener(import_callback(attributes.on_event))
            self._signals.install()
            remove_directories_of_dead_attempts(attributes.temp_dir_root, identity, place.node_index)
            self.loaded = self._load(attributes.load_policy)
            if attributes.watch:
                self._watch()
        except BaseException as error:
            self._end(error)
            raise
        self.current = CurrentCheckpoint(
            self._checkpointer, self._directory, self.loaded, self._passed_over, self._deleted, self._watcher
        )
        if with_card:
            self._card = CheckpointCard(self._checkpointer, self.loaded, attributes.load_policy, leave_out_card)
        export_task(identity, place)

    def _load(self, policy: str) -> CheckpointRecord | None:
        if policy == "none":
            return None
        record = run_apart(lambda: self._checkpointer.resume(policy, self._directory, strict=self._attributes.strict))
        if record is not None:
            say(
                f"loaded checkpoint {record.name!r} number {record.version_id} of {record.pathspec}, attempt {record.attempt} "
                f"({readable_bytes(record.size_bytes)}, saved at {time_text(record.created_on)}): {record.url}"
            )
        return record

    def _watch(self) -> None:
        from ckpt_async import Watcher

        if self._attributes.watched_path is not None:
            self._link = link_to_directory(self._attributes.watched_path, self._directory)
        rules = self._attributes.watch_rules
        # What lies there now is what was loaded.
        self._watcher = run_apart(lambda: Watcher(self._checkpointer, self._directory, rules, known=True, say=say))

    def run(self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the step's code, store what it saved, and end the session, whatever the code raises.

        Raises
        ------
        BaseException
            What the code raised; a failure to store is then reported beside it. Where the code ended well: the failure to store.
        """
        try:
            try:
                self._card.start()
                # Not before: the decorators that start the monitor may run their hooks after ours.
                if (notice := notice_file()) is not None:
                    self._spot = SpotWatch(notice, self._on_spot_notice)
                result = step(*args, **kwargs)
            finally:
                self._settle_signals()
        except BaseException as error:
            # The alarm or a signal may have struck inside the `finally` above: that is the step's exception, no second may follow.
            self._settle_signals()
            self._end(error)
            raise
        late = self._end(None)
        if late is not None:
            raise late
        return result

    def _on_spot_notice(self, when: str) -> None:
        self._checkpointer.press()
        pending = self._checkpointer.pending
        left = "Nothing is"
        if pending.saves:
            left = f"{saves_words(pending.saves)} ({readable_bytes(pending.size_bytes)}) {'is' if pending.saves == 1 else 'are'}"
        say(
            f"Spot notice: this machine is taken away ({when or 'soon'}). {left} not in the datastore yet. From now on the newest "
            "save is stored first."
        )

    def end_unused(self, failure: BaseException | None) -> None:
        """End the session where the step's code was never reached: another decorator failed before it, or skipped it.

        Raises
        ------
        Exception
            The failure to store; with a `failure`, which is what the attempt fails with, nothing.
        """
        if failure is None:
            late = self._end(None)
            if late is not None:
                raise late
            return
        try:
            self._end(failure)
        except Exception as error:
            report_beside(failure, error)

    def _settle_signals(self) -> None:
        self._signals.begin_end()
        stop_alarm()

    def _end(self, failure: BaseException | None) -> BaseException | None:
        """End everything once; return the exception that the attempt should fail with where `failure` is None."""
        # A child that the step has forked, and that leaves the step by an exception, must not end what is its parent's.
        if self._ended or os.getpid() != self._owner_pid:
            return None
        self._ended = True
        self._signals.begin_end()
        self._card.step_ended()
        if self._spot is not None:
            self._spot.stop()
        if isinstance(failure, KeyboardInterrupt):
            self._signals.count_interrupt()
        try:
            children_saved = self._children_saved()
            # An interrupt (Ctrl-C) ends the whole run.
            last = self._last_attempt or isinstance(failure, KeyboardInterrupt)
            not_stored = self._store_all(failed=failure is not None, retried=failure is not None and not last)
            if last:
                self._checkpointer.end_keeping()
            # Of an earlier attempt, a worker that is still alive keeps the rules too, and judges what this one has saved.
            others_prune = self._checkpointer.identity.attempt > 0 and bool(self._attributes.settings.keep_rules)
            ask_store = children_saved or bool(self._deleted) or others_prune
            self._leave_artifacts(ask_store=ask_store and not isinstance(not_stored, (FlushTimeout, StoreError)))
            self._finish_card(failed=failure is not None or not_stored is not None)
        finally:
            self._signals.restore()
            if self._link is not None:
                remove_link(self._link, self._directory)
            # Files that can't be removed are no reason to fail an attempt whose checkpoints are stored.
            shutil.rmtree(self._directory, ignore_errors=True)
        if failure is not None and not_stored is not None:
            report_beside(failure, not_stored)
        return self._signals.exit_of_late_signal() or not_stored

    def _children_saved(self) -> bool:
        """Tell whether save numbers were taken that are not of our own saves. To be asked before the spool, which counts, is gone.

        What is to be known of the children's saves costs requests, so those are only made where there may be some.
        """
        place = self._place
        if any(reference.get("group") for reference in self._checkpointer.references()):
            return True  # Their numbers tell nothing of how many there were.
        try:
            number = next_save_number(
                self._checkpointer.identity,
                place.address,
                scratch_root=place.scratch_root,
                node_index=place.node_index,
                num_nodes=place.num_nodes,
            )
        except CheckpointError as error:
            say(f"whether child processes have saved is not known: {error}")
            return True
        return (number - place.node_index) // place.num_nodes > len(self._checkpointer.references())

    def _store_all(self, *, failed: bool, retried: bool) -> Exception | None:
        """Wait until all is stored; return why not, where it is not."""
        settings, pending = self._attributes.settings, self._checkpointer.pending
        stopped = self._signals.stopped
        if stopped and pending.saves:
            left = f"{saves_words(pending.saves)} {'is' if pending.saves == 1 else 'are'}"
            say(f"stopped by a signal; {left} being stored, newest first; a second signal ends the wait.")
        closing = Apart(lambda: self._close(failed=failed, newest_first=stopped, retried=retried))
        self._signals.while_waiting(closing.stop_waiting)
        ended = closing.wait()
        if ended is None:
            pending = self._checkpointer.pending
            beside = settings.worker == "process" and settings.async_upload
            goes_on = "a process beside the task goes on storing" if beside else "not stored yet:"
            say(f"stopped waiting at a signal; {goes_on} {saves_words(pending.saves)}, {readable_bytes(pending.size_bytes)}.")
            return None
        if ended.error is not None and not isinstance(ended.error, Exception):
            raise ended.error
        return ended.error

    def _close(self, *, failed: bool, newest_first: bool, retried: bool) -> None:
        timeout_s = self._attributes.settings.flush_timeout_s
        deadline_s = time.monotonic() + timeout_s
        if newest_first:
            self._checkpointer.press()  # Before anything is waited for: the deadline presses already.
        not_saved = None
        if self._watcher is not None:
            not_saved = self._watcher.stop(failed=failed, timeout_s=timeout_s, pressed=lambda: self._signals.came_late)
        left_s = max(0.0, deadline_s - time.monotonic())
        self._checkpointer.close(timeout_s=left_s, newest_first=newest_first, retried=retried)
        if not_saved is not None:
            raise not_saved

    def _finish_card(self, *, failed: bool) -> None:
        try:
            if not (self._card.finish(failed=failed) and failed):
                return  # Metaflow renders the card of a task that ended well.
            # Time is short where a signal has come; whoever loads the card anew sees it all the same.
            stopped = self._signals.stopped
            rendering = Apart(lambda: self._card.render(with_data=not stopped))
            self._signals.while_waiting(rendering.stop_waiting)
            limit = threading.Timer(STOPPED_RENDER_S if stopped else RENDER_TIMEOUT_S, rendering.stop_waiting)
            limit.start()
            try:
                ended = rendering.wait()
            finally:
                limit.cancel()
                limit.join()
            if ended is None:
                say("the card is not complete: making it took too long.")
            elif ended.error is not None:
                raise ended.error
        except Exception as error:
            # Metaflow's, or the disk's: what a picture of the checkpoints lacks is no reason to fail, or to hide a failure.
            say(f"the card was not brought up to date: {type(error).__name__}: {error}")

    def _leave_artifacts(self, *, ask_store: bool) -> None:
        records = [one for one in artifacts.records_of(self._checkpointer.references()) if one["key"] not in self._deleted]
        latest = next((record for record in records if record["key"] not in self._passed_over), None)
        if latest is None and self.loaded is not None and self.loaded.pathspec == self._checkpointer.identity.pathspec:
            latest = None if self.loaded.key in self._deleted else self.loaded.to_dict()
        if ask_store:
            records, latest = self._as_stored(records, latest)
        artifacts.store_artifacts(self._flow, records, latest)

    def _as_stored(
        self, records: list[dict[str, Any]], latest: dict[str, Any] | None
    ) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Return the records of this attempt that the store has, those of child processes too, and the task's newest; where it
        can't tell, or a signal ends the wait, what was given.
        """
        checkpointer = self._checkpointer
        asking = Apart(lambda: artifacts.of_attempt_in_store(checkpointer.reader, checkpointer.identity))
        self._signals.while_waiting(asking.stop_waiting)
        ended = asking.wait()
        if ended is None or ended.result is None:
            why = "stopped by a signal" if ended is None else str(ended.error)
            say(f"the artifacts name only what this process has saved; what the store has is not known: {why}")
            return records, latest
        stored, newest = ended.result
        # What other processes have pruned: no reference that the user keeps may name it.
        checkpointer.settle_missing({record.key for record in stored}, "it was deleted by another process")
        return [record.to_dict() for record in stored], None if newest is None else newest.to_dict()


def report_beside(failure: BaseException, not_stored: Exception) -> None:
    """Tell that checkpoints were not stored while another exception is on its way, which stays the attempt's failure."""
    if isinstance(failure, StoreError) and type(failure) is type(not_stored):
        return  # It is the same refusal: the step has failed with it, and it says where what was saved lies.
    cause = str(not_stored) if isinstance(not_stored, CheckpointError) else f"{type(not_stored).__name__}: {not_stored}"
    text = f"while the step failed with {type(failure).__name__}, its checkpoints were not all stored: {cause}"
    say(text)
    if hasattr(failure, "add_note"):  # Python 3.11 and later
        failure.add_note(f"[@checkpoint] {text}")
