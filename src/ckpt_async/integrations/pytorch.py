"""Plain PyTorch: a state is copied in memory at once, and written to disk and saved in the background.

```
state = load_state(current.checkpoint)          # None in the first attempt
...
save_state(current.checkpoint, {"model": model.state_dict(), "step": step})
```
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch

from ckpt_async.integrations.saver import Saver, fresh_folder, loaded_path
from ckpt_async.integrations.staging import Staging
from ckpt_async.progress import FIRST_LINE_S, LINE_EVERY_S, readable_bytes, readable_seconds
from ckpt_async.reference import CheckpointReference
from ckpt_async.words.errors import CheckpointDamaged, CheckpointError, FlushTimeout, InvalidArgument, SnapshotFailed
from ckpt_async.words.names import DEFAULT_NAME, check_name

__all__ = ["StagedSave", "StateWriter", "StateWriterStats", "load_state", "restore_rng_state", "rng_state", "save_state"]

#: The file of a state in its checkpoint.
STATE_FILE = "state.pt"


@dataclass(frozen=True)
class StateWriterStats:
    """What a writer has done so far.

    Attributes
    ----------
    states : int
        Staged.
    staged_bytes : int
        Of all of them.
    staged_s, waited_s : float
        What the training was held up by: copying in memory, and waiting until an earlier state was written.
    written_s : float
        Spent in the background, writing files and saving them.
    """

    states: int = 0
    staged_bytes: int = 0
    staged_s: float = 0.0
    waited_s: float = 0.0
    written_s: float = 0.0


class StagedSave:
    """A state on its way to become a checkpoint: what `save_state` returns.

    Until `saved` is true the state is in the memory of this process alone, and lost with it. From then on it is a save like any
    other, with a `reference`.
    """

    def __init__(self, name: str, on_told: Callable[[CheckpointError], None]) -> None:
        self._name = name
        self._on_told = on_told
        self._ended = False
        self._error: CheckpointError | None = None
        self._reference: CheckpointReference | None = None
        self._waiters: list[SimpleQueue[None]] = []

    @property
    def saved(self) -> bool:
        """Whether the saver has it: from now on the death of this process does not lose it."""
        return self._reference is not None

    @property
    def reference(self) -> CheckpointReference | None:
        """What ``save()`` returned, whose ``wait()`` waits until it is in the store; None as long as it is not `saved`."""
        return self._reference

    def done(self) -> bool:
        """Tell whether it is saved, or has failed."""
        return self._ended

    def wait(self, timeout: float | None = None) -> CheckpointReference:
        """Wait until it is saved.

        Parameters
        ----------
        timeout : float, optional
            In seconds.

        Raises
        ------
        FlushTimeout
            The time is over; it goes on being written.
        CheckpointError
            Why it could not be saved.
        """
        limit_s = None if timeout is None else time.monotonic() + timeout
        if not self.wait_ended(limit_s):
            raise FlushTimeout("wait for a state to be written", on=self._name, cause=f"it is not after {timeout:g} s")
        if self._error is not None:
            self._on_told(self._error)
            raise self._error
        assert self._reference is not None
        return self._reference

    def wait_ended(self, limit_s: float | None) -> bool:
        """Wait until it is saved or has failed, at most until `limit_s` on the clock of `time.monotonic`; return whether it is."""
        # No lock is held, so that the exception of a signal's handler, which may come between any two lines, leaves none taken.
        news: SimpleQueue[None] = SimpleQueue()
        self._waiters.append(news)
        try:
            while not self._ended:
                left_s = FIRST_LINE_S if limit_s is None else min(FIRST_LINE_S, limit_s - time.monotonic())
                if left_s <= 0:
                    return False
                with suppress(Empty):
                    news.get(timeout=left_s)
        finally:
            self._waiters.remove(news)
        return True

    def _end(self, reference: CheckpointReference | None, error: CheckpointError | None) -> None:
        self._reference, self._error = reference, error
        self._ended = True
        for waiter in list(self._waiters):
            waiter.put(None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Kept as an artifact it becomes what the reference would become.
        if self._reference is not None:
            return self._reference.__reduce_ex__(protocol)
        status = "failed" if self._ended else "being written"
        return dict, ({"type": "checkpoint-not-stored", "name": self._name, "status": status, "reason": str(self._error or "")},)


class _Slot:
    """Memory for one state, and the save that it is in use for."""

    def __init__(self) -> None:
        self.staging = Staging()
        self.save: StagedSave | None = None


class StateWriter:
    """Writes states in the background, in the order in which they were given to it. One thread at a time may use it.

    It is a source of its saver: `current.checkpoint.flush()` and the end of the step wait until all states are written, and raise
    what could not be. Each state is written by a thread that ends when it is done, which the end of the interpreter waits for.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    max_staged : int
        How many states may be in memory at once. With all of that in use, `save` waits.
    say : callable
        Prints a line for the user.
    """

    def __init__(self, saver: Saver, *, max_staged: int = 1, say: Callable[[str], None] = print) -> None:
        if isinstance(max_staged, bool) or not isinstance(max_staged, int) or max_staged < 1:
            raise InvalidArgument("make a writer of states", on=f"max_staged={max_staged!r}", cause="it is a number from 1 on")
        self.saver = saver
        self._say = say
        self._pid = os.getpid()
        self._slots = [_Slot() for _ in range(max_staged)]
        self._last: StagedSave | None = None
        self._untold: deque[CheckpointError] = deque()
        self._states = self._staged_bytes = 0
        self._staged_s = self._waited_s = self._written_s = 0.0
        saver.add_source(self)

    @property
    def stats(self) -> StateWriterStats:
        """What was done so far."""
        return StateWriterStats(self._states, self._staged_bytes, self._staged_s, self._waited_s, self._written_s)

    def save(
        self, state: object, *, name: str = DEFAULT_NAME, metadata: dict[str, Any] | None = None, latest: bool = True
    ) -> StagedSave:
        """Copy a state in memory, and have it written and saved; see `save_state`."""
        if os.getpid() != self._pid:
            raise InvalidArgument(
                "save a state",
                on=f"process {os.getpid()}",
                cause=f"this writer belongs to process {self._pid}, and this one was forked from it",
                hint="Save in the process of the task itself.",
            )
        check_name(name)
        self._raise_untold()
        slot = self._wait_for_slot()
        began_s = time.monotonic()
        staged = slot.staging.stage(state)
        self._states += 1
        self._staged_bytes += slot.staging.size_bytes
        self._staged_s += time.monotonic() - began_s
        save = StagedSave(name, self._forget)
        thread = threading.Thread(
            target=self._write,
            args=(save, slot.staging, staged, self._last, None if metadata is None else dict(metadata), latest),
            name="ckpt-async-state",
        )
        slot.save = self._last = save
        try:
            thread.start()
        except RuntimeError as error:
            # Nothing else: what a signal's handler raises may come when the thread runs already, and reads the slot's memory.
            failure = SnapshotFailed("write a state", on=name, cause=str(error))
            save._end(None, failure)
            raise failure from error
        return save

    def flush(self, deadline_s: float) -> None:
        """Wait until all states are saved, for the saver; see `ckpt_async.Source`."""
        last = self._last
        if os.getpid() == self._pid and last is not None and not last.wait_ended(deadline_s):
            raise FlushTimeout(
                "save a state",
                on=last._name,
                cause="it is still being written from memory to the disk",
                hint="It is lost when this process ends before that is done. A longer flush_timeout gives it more time.",
            )
        self._raise_untold()

    def _raise_untold(self) -> None:
        with suppress(IndexError):
            raise self._untold.popleft()

    def _forget(self, error: CheckpointError) -> None:
        with suppress(ValueError):
            self._untold.remove(error)

    def _wait_for_slot(self) -> _Slot:
        # They are used, and become free, one after the other.
        slot = self._slots[self._states % len(self._slots)]
        began_s = time.monotonic()
        line_s = began_s + FIRST_LINE_S
        while slot.save is not None and not slot.save.wait_ended(line_s):
            waited = readable_seconds(time.monotonic() - began_s)
            self._say(f"save_state() waits since {waited}: the state before it is still being written to {self.saver.directory}.")
            line_s = time.monotonic() + LINE_EVERY_S
        self._waited_s += time.monotonic() - began_s
        # What this wait was for may have failed.
        self._raise_untold()
        return slot

    def _write(
        self,
        save: StagedSave,
        staging: Staging,
        staged: object,
        before: StagedSave | None,
        metadata: dict[str, Any] | None,
        latest: bool,
    ) -> None:
        """Runs in a thread of its own."""
        if before is not None:
            before.wait_ended(None)
        began_s = time.monotonic()
        try:
            staging.wait_copied()
            with fresh_folder(self.saver) as folder:
                torch.save(staged, os.path.join(folder, STATE_FILE))
                reference = self.saver.save(folder, name=save._name, metadata=metadata, latest=latest)
        except BaseException as error:  # handed over whole, to whoever asks next
            failure = error if isinstance(error, CheckpointError) else self._not_written(error, staging.size_bytes)
            self._untold.append(failure)
            save._end(None, failure)
        else:
            save._end(reference, None)
        self._written_s += time.monotonic() - began_s

    def _not_written(self, error: BaseException, size_bytes: int) -> SnapshotFailed:
        failure = SnapshotFailed(
            "write a state",
            on=self.saver.directory,
            cause=f"{type(error).__name__}: {error}",
            hint=f"It has {readable_bytes(size_bytes)}; nothing of it remains.",
        )
        failure.__cause__ = error
        return failure


#: The writers that `save_state` has made. Their savers keep them alive, as their sources.
_WRITERS: weakref.WeakValueDictionary[int, StateWriter] = weakref.WeakValueDictionary()


def save_state(
    saver: Saver, state: object, *, name: str = DEFAULT_NAME, metadata: dict[str, Any] | None = None, latest: bool = True
) -> StagedSave:
    """Save a state: returns when it is copied in memory, so that the training may go on; it is written to disk and saved in the
    background.

    Once this has returned, what is saved is the state at the call, whatever becomes of the tensors. It survives the death of this
    process once `StagedSave.saved` is true. While an earlier state is still being written, this waits for it.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    state : dict, list or tuple
        Of tensors on any device, numbers, text, and dicts, lists and tuples of these: what the ``state_dict()`` of modules,
        optimizers and schedulers return.
    name, metadata, latest
        As ``save()`` takes them.

    Returns
    -------
    StagedSave
        With ``wait()``, ``done()``, ``saved`` and ``reference``.

    Raises
    ------
    InvalidArgument
        Something in the state could not be loaded again; it is named.
    CheckpointError
        A state before this one could not be saved. This one was not taken.
    """
    writer = _WRITERS.get(id(saver))
    if writer is None or writer.saver is not saver:
        writer = _WRITERS[id(saver)] = StateWriter(saver)
    return writer.save(state, name=name, metadata=metadata, latest=latest)


def load_state(saver: Saver, reference: object = None, *, map_location: Any = None) -> Any:
    """Return a state that was saved by `save_state`. Nothing in its file is executed.

    Parameters
    ----------
    saver : Saver
        That has loaded it, or loads it.
    reference : dict or str, optional
        Another checkpoint than the one that was loaded before the training began.
    map_location
        As ``torch.load`` takes it. By default all tensors are on the CPU, from where ``load_state_dict()`` moves them.

    Returns
    -------
    object
        None where no checkpoint was loaded, and no `reference` was given.

    Raises
    ------
    InvalidArgument
        The checkpoint was not saved by `save_state`.
    CheckpointDamaged
        The file can't be read.
    """
    if reference is None:
        path = loaded_path(saver, STATE_FILE, saved_by="save_state()")
        return None if path is None else _read(path, map_location)
    with fresh_folder(saver) as folder:
        saver.load(reference, folder)
        path = os.path.join(folder, STATE_FILE)
        if not os.path.exists(path):
            raise InvalidArgument("load a state", on=str(reference), cause="it was not saved by save_state()")
        return _read(path, map_location)


def _read(path: str, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever a broken file makes it raise
        raise CheckpointDamaged("load a state", on=path, cause=f"{type(error).__name__}: {error}") from error


def rng_state() -> dict[str, Any]:
    """Return the state of the random numbers of Python, NumPy and PyTorch, in a form that `save_state` takes: with it, a training
    that is resumed draws what it would have drawn.
    """
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        state["numpy"] = [kind, [int(key) for key in keys], *rest]
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """Have the random numbers go on from what `rng_state` returned."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "numpy" in state:
        import numpy

        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))
