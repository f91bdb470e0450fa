"""The watcher of one folder: a thread that sleeps until something happens there, looks, and saves what is complete."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ckpt_async.progress import readable_bytes, readable_seconds
from ckpt_async.watching.completeness import (
    Decision,
    Ending,
    GiveUp,
    History,
    Save,
    Wait,
    after_event,
    after_look,
    after_save,
    changed_tops,
    decide,
    unsaved,
)
from ckpt_async.watching.looking import Look, look, state_of
from ckpt_async.watching.notices import Change, Ear, NoNotices, watchfiles_here
from ckpt_async.words.errors import CheckpointError, FilesChanged, FlushTimeout, SnapshotFailed
from ckpt_async.words.names import DEFAULT_NAME
from ckpt_async.words.watch_rules import WatchRules

if TYPE_CHECKING:
    from ckpt_async.checkpointer import Checkpointer
    from ckpt_async.disk.scan import ScannedTree
    from ckpt_async.reference import CheckpointReference

__all__ = ["METADATA", "Watcher"]

#: Also without a notice the folder is looked at: one may be lost, and what a symbolic link leads to is not told of.
LOOK_EVERY_S = 30.0

#: At the most this fraction of the time goes into looks for which there is no reason: one part in so many.
LOOKS_SHARE = 50

#: So often nobody may be able to tell of writers (a guard that is being replaced) before the quiet period has to do.
UNTOLD_LOOKS = 3

#: And so long lies between two of these looks, at the most.
UNTOLD_WAIT_S = 0.5

#: Once the writing has ended, so often it is looked at the least, in seconds: what is waited for may have become pressing.
END_LOOK_S = 1.0

#: The key in a checkpoint's metadata under which stands what was new in the folder.
METADATA = "watch"

#: So many names stand there.
NAMES_TOLD = 10


class Watcher:
    """Saves a folder each time that what lies there is complete, until `stop`.

    Parameters
    ----------
    checkpointer : Checkpointer
        Takes the saves. Outlives the watcher.
    directory : str
        The folder. It need not exist yet.
    rules : WatchRules
        When it is complete.
    known : bool
        Whether all that lies there now is in a checkpoint already: it was loaded.
    stored : iterable of (str, int, int)
        Otherwise, the files that are in the newest checkpoint: path, size in bytes, and nanoseconds since 1970.
    name : str
        Of the checkpoints.
    say : callable
        Prints a line for the user; called in any thread.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        directory: str,
        rules: WatchRules | None = None,
        *,
        known: bool = False,
        stored: Iterable[tuple[str, int, int]] = (),
        name: str = DEFAULT_NAME,
        say: Callable[[str], None] = print,
    ) -> None:
        self._checkpointer = checkpointer
        self._root = os.path.realpath(directory)
        self._rules = WatchRules() if rules is None else rules
        self._name = name
        self._say = say
        # Guards what follows; held while the folder is looked at, and not while it is saved.
        self._lock = threading.RLock()
        self._history = History(still_since_s=time.monotonic())
        self._look_at_s = 0.0
        self._look_every_s = LOOK_EVERY_S
        self._ending = Ending.NOT_YET
        self._pressed: Callable[[], bool] = lambda: False
        self._give_up_at_s = float("inf")
        self._loading = 0
        self._untold = 0
        self._told_wait = False
        self._failure: CheckpointError | None = None
        self._broken: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._ear = Ear(self._root, self._rules.quiet_s)
        self._looks = 0
        if known:
            self.take_as_saved()
        elif files := set(stored):
            lies = look(self._root, self._rules).state
            saved = {path: file for path, file in lies.items() if (path, file.size_bytes, file.mtime_ns) in files}
            self._history = after_save(self._history, saved, time.monotonic())
        checkpointer.on_taken(self._on_taken)
        # Imported now, not in the thread: a child that is forked meanwhile would wait for ever for it.
        watchfiles_here()
        self._thread = threading.Thread(target=self._run, name="ckpt-async-watch", daemon=True)
        self._thread.start()

    # For other threads

    @property
    def broken(self) -> bool:
        """Whether the watching has ended by itself, because of something that should not have happened; `stop` tells of what."""
        return self._broken is not None

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """What is written into the folder inside this block comes from a checkpoint, and makes none."""
        # Without the lock: a load may take long, and whoever ends the watching would wait for it.
        with self._lock:
            self._loading += 1
        try:
            yield
            self.take_as_saved()
        finally:
            with self._lock:
                self._loading -= 1
            self._wake()

    def take_as_saved(self) -> None:
        """What lies in the folder now is in a checkpoint."""
        with self._lock:
            seen = look(self._root, self._rules)
            now_s = time.monotonic()
            self._history = after_save(after_look(self._history, seen.state, now_s), seen.state, now_s)

    def stop(self, *, failed: bool, timeout_s: float, pressed: Callable[[], bool] = lambda: False) -> CheckpointError | None:
        """End the watching. What is complete and not yet saved is saved before. It never waits for a load that is under way.

        Parameters
        ----------
        failed : bool
            Whether those who write were interrupted: then only what was complete in this moment is. Otherwise what is still being
            written is waited for, for `WatchRules.max_wait_s` at most, and for half of `timeout_s`, but for one and a half
            quiet periods in any case, where that leaves time: the rest is for saving.
        timeout_s : float
            For all of it, a save that waits for room included.
        pressed : callable
            Tells whether time has become short since; asked now and then. Those who write are waited for no longer than the quiet
            period then.

        Returns
        -------
        CheckpointError or None
            Why something that was complete could not be saved.
        """
        quiet_s = self._rules.quiet_s
        # What was written right before is noticed a moment later, on a busy machine more than that: its quiet period begins then.
        quiet_in_any_case_s = quiet_s + max(0.0, min(quiet_s, timeout_s - quiet_s)) / 2
        self._give_up_at_s = time.monotonic() + min(self._rules.max_wait_s, max(timeout_s / 2, quiet_in_any_case_s))
        self._pressed = pressed
        self._ending = Ending.FAILED if failed else Ending.WELL
        self._wake()
        self._thread.join(min(timeout_s, threading.TIMEOUT_MAX))
        if self._thread.is_alive():
            late = FlushTimeout(
                "save what was written last",
                on=self._root,
                cause=f"it was not taken within {readable_seconds(timeout_s)}",
                hint="What was saved before is not touched by this.",
            )
            self._say(str(late))  # The flush that follows may fail with something of its own.
            return late
        if self._broken is not None:
            return CheckpointError("watch a folder", on=self._root, cause=f"{type(self._broken).__name__}: {self._broken}")
        return self._failure

    def _wake(self) -> None:
        loop, news = self._loop, self._news
        if loop is not None and news is not None:
            with contextlib.suppress(RuntimeError):  # it has ended in this moment
                loop.call_soon_threadsafe(news.set)

    def _tell(self, text: str) -> None:
        """Say something in which names of files stand, which may have anything in them: it stays one line, and plain."""
        self._say("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))

    def _on_taken(self, tree: ScannedTree, reference: CheckpointReference) -> None:
        """A save was taken, this watcher's or the user's own."""
        if os.path.realpath(tree.root) == self._root and reference.record.latest:
            with self._lock:
                self._history = after_save(self._history, state_of(tree, self._rules), time.monotonic())

    # The thread

    def _run(self) -> None:
        import anyio

        try:
            anyio.run(self._main)
        except BaseException as error:
            # Whatever it is, the user must learn that nothing is saved any more.
            self._broken = error
            trace = "".join(traceback.format_exception(error))
            self._say(f"Watching {self._root} has ended, and nothing is saved by itself any more: {trace}")

    async def _main(self) -> None:
        import anyio

        with self._lock:
            self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen)
            while (until_s := self._step(time.monotonic())) is not None:
                with anyio.move_on_after(max(0.0, until_s - time.monotonic())):
                    await self._news.wait()
                self._news.clear()
            self._ear.close()
            group.cancel_scope.cancel()
        with self._lock:
            self._loop = None

    async def _listen(self) -> None:
        try:
            await self._ear.listen(self._take_in)
        except NoNotices as error:
            self._look_every_s = max(self._rules.quiet_s / 2, 0.01)
            self._look_soon(0.0)
            self._say(f"Changes in {self._root} are not told of ({error}); it is looked at every {self._look_every_s:g} s instead.")

    def _look_soon(self, at_s: float) -> None:
        assert self._news is not None
        self._look_at_s = at_s
        self._news.set()

    def _take_in(self, changes: set[Change]) -> None:
        """Note what has happened, and when it will be time to look."""
        at_s = time.monotonic()
        with self._lock:
            if not changes:
                self._look_soon(0.0)
                return
            paths = [os.path.relpath(path, self._root) for _, path in changes]
            paths = [path for path in paths if not (self._rules.is_temporary(path) or self._rules.is_ignored(path))]
            if paths:
                self._history = after_event(self._history, at_s)
                self._look_soon(at_s if any(map(self._rules.is_marker, paths)) else at_s + self._rules.quiet_s)

    def _step(self, now_s: float) -> float | None:
        """Look, where it is time to, and do what is to be done about it. Returns when to come again; None: never, it is over."""
        with self._lock:
            ending = self._ending
            if ending is Ending.WELL and self._pressed():
                self._give_up_at_s = min(self._give_up_at_s, now_s + self._rules.quiet_s)
            if self._loading:
                return now_s + LOOK_EVERY_S if ending is Ending.NOT_YET else None
            over_s = self._over_s()
            if ending is Ending.NOT_YET and now_s < min(self._look_at_s, over_s):
                return min(self._look_at_s, over_s)
            try:
                seen = look(self._root, self._rules)
            except CheckpointError as error:
                return self._fail(error, now_s, ending)
            took_s = time.monotonic() - now_s
            if seen.state != self._history.seen and not self._history.told and self._looks:
                # Notices were lost; with that of a new folder, all that would come of it.
                self._ear.begin_anew()
            self._looks += 1
            self._history = after_look(self._history, seen.state, now_s)
            decision = self._decide(seen, now_s, ending)
            self._look_at_s = now_s + max(self._look_every_s, took_s * LOOKS_SHARE)
            if isinstance(decision, Wait):
                self._look_at_s = min(self._look_at_s, decision.until_s)
                if ending is not Ending.NOT_YET:
                    self._look_at_s = min(self._look_at_s, self._give_up_at_s, now_s + max(END_LOOK_S, took_s))
                self._tell_wait(decision.why, now_s)
            elif isinstance(decision, GiveUp):
                self._tell(f"What was written last in {self._root} is not complete and is not saved: {decision.why}.")
        if isinstance(decision, Save):
            return self._save(seen, decision, now_s, ending)
        if isinstance(decision, Wait):
            return self._look_at_s
        self._failure, self._told_wait = None, False
        return self._look_at_s if ending is Ending.NOT_YET else None

    def _decide(self, seen: Look, now_s: float, ending: Ending) -> Decision:
        waiting = unsaved(self._history)
        by_path = {os.path.join(self._root, path): path for path in waiting}
        what_is_known = functools.partial(
            decide,
            self._history,
            self._rules,
            now_s,
            newest_age_s=seen.age_s(waiting),
            ending=ending,
            give_up_at_s=self._give_up_at_s,
        )
        decision = what_is_known(written=None)
        if not isinstance(decision, Save):
            return decision
        # The one question that takes another process to answer: only where all else is well.
        written = self._checkpointer.being_written(list(by_path))
        if written is None:
            return self._without_writers(decision, now_s, ending)
        self._untold = 0
        return what_is_known(written=[by_path[path] for path in written])

    def _without_writers(self, decision: Save, now_s: float, ending: Ending) -> Decision:
        self._untold += 1
        if self._untold < UNTOLD_LOOKS and ending is not Ending.FAILED:
            return Wait(
                now_s + min(UNTOLD_WAIT_S, self._rules.quiet_s / 2), "whether a file is open for writing is not known at the moment"
            )
        if self._untold == UNTOLD_LOOKS:
            self._say(
                f"Whether a file in {self._root} is open for writing can't be told here: what has not changed for "
                f"{self._rules.quiet_s:g} s counts as complete."
            )
        return decision

    def _over_s(self) -> float:
        """Return when it is to be said why something is not complete; infinite where it has been, or nothing waits."""
        since_s = self._history.waiting_since_s
        return float("inf") if since_s is None or self._told_wait else since_s + self._rules.max_wait_s

    def _tell_wait(self, why: str, now_s: float) -> None:
        if now_s >= self._over_s():
            self._told_wait = True
            waited = readable_seconds(self._rules.max_wait_s)
            self._tell(f"What is being written in {self._root} has not been complete for {waited}, and is not saved: {why}.")

    def _save(self, seen: Look, decision: Save, now_s: float, ending: Ending) -> float | None:
        assert seen.tree is not None
        tops = changed_tops(self._history)
        try:
            reference = self._checkpointer.save_as_seen(seen.tree, name=self._name, metadata={METADATA: tops[:NAMES_TOLD]})
        except FilesChanged:
            return self._changed_meanwhile()
        except SnapshotFailed as error:
            # Removed, or replaced, while it was taken; or it is the disk.
            return self._fail(error, now_s, ending) if self._is_as_seen(seen) else self._changed_meanwhile()
        except CheckpointError as error:
            return self._fail(error, now_s, ending)
        self._failure, self._told_wait = None, False
        named = ", ".join(tops[:3]) + (f" and {len(tops) - 3} more" if len(tops) > 3 else "")
        missing = f", though {decision.lacking}" if decision.lacking else ""
        self._tell(f"saved what was written: {named} ({readable_bytes(reference.state.size_bytes)} in all){missing}")
        with self._lock:
            # Guarding moves the files' times of change, which is told; there is nothing to see before that.
            self._look_at_s = now_s if ending is not Ending.NOT_YET else time.monotonic() + self._rules.quiet_s
            return self._look_at_s

    def _is_as_seen(self, seen: Look) -> bool:
        try:
            return look(self._root, self._rules).state == seen.state
        except CheckpointError:
            return False

    def _changed_meanwhile(self) -> float:
        with self._lock:
            self._history = after_event(self._history, time.monotonic())
            self._look_at_s = time.monotonic() + self._rules.quiet_s
            return time.monotonic() if self._ending is not Ending.NOT_YET else self._look_at_s

    def _fail(self, error: CheckpointError, now_s: float, ending: Ending) -> float | None:
        """Say it, and try again when there is something new, or later."""
        if str(error) != str(self._failure):
            self._say(f"What was written in {self._root} can't be saved: {error}")
        self._failure = error
        self._look_at_s = now_s + self._rules.max_wait_s
        return self._look_at_s if ending is Ending.NOT_YET else None
