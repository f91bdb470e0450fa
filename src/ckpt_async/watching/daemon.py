"""Watching a folder from outside of any flow, until told to stop: what the command ``ckpt-async watch`` does."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ckpt_async.assembly import open_checkpointer, open_reader
from ckpt_async.checkpointer import Checkpointer
from ckpt_async.reader import Reader
from ckpt_async.spool.neighbours import attempt_of, left_saves, older_attempts, spool_folder
from ckpt_async.stores.opening import check_address, local_folder
from ckpt_async.watching.watcher import Watcher
from ckpt_async.words.errors import (
    CheckpointDamaged,
    CheckpointError,
    FlushTimeout,
    InvalidArgument,
    SpoolBusy,
    StoreObjectMissing,
    StoreUnavailable,
)
from ckpt_async.words.identity import MAX_ATTEMPT, TaskIdentity, identity_outside_flow
from ckpt_async.words.names import DEFAULT_NAME, check_name
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.settings import Settings, StoreAddress
from ckpt_async.words.watch_rules import WatchRules

__all__ = ["WatchPlan", "run_daemon"]

#: How long one try to learn from the store what is in it may take, in seconds, and what lies between two of them.
LOOK_GIVE_UP_S = 20.0
LOOK_AGAIN_S = 5.0

#: So often what the store has refused is tried once more: nobody calls ``flush()`` here after mending the cause.
RETRY_EVERY_S = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class WatchPlan:
    """What is watched, and what becomes of it.

    Attributes
    ----------
    directory : str
        The folder. Made where it is missing.
    address : StoreAddress
        Where checkpoints go.
    pathspec : str
        ``FLOW/RUN/STEP/TASK``, under which they are kept.
    namespace : str or None
        See `identity_outside_flow`.
    name : str
        Of the checkpoints.
    settings : Settings
        How they are taken and uploaded.
    rules : WatchRules
        When the folder is complete.
    once : bool
        Whether to end as soon as what lies there is saved and stored.
    restore : bool
        Whether to load the newest checkpoint first, where the folder is empty.
    grace_s : float
        How long the end may take, in seconds.
    """

    directory: str
    address: StoreAddress
    pathspec: str
    namespace: str | None = None
    name: str = DEFAULT_NAME
    settings: Settings = dataclasses.field(default_factory=Settings)
    rules: WatchRules = dataclasses.field(default_factory=WatchRules)
    once: bool = False
    restore: bool = False
    grace_s: float = 30.0


def run_daemon(
    plan: WatchPlan,
    stopped: threading.Event,
    *,
    say: Say = print,
    listener: Callable[[Checkpointer, object], None] = lambda checkpointer, event: None,
) -> bool:
    """Watch until `stopped` is set; returns whether all that was saved is in the store. What is not lies in the spool, and the next
    one on this machine goes on with it.

    Parameters
    ----------
    plan : WatchPlan
        What to do.
    stopped : threading.Event
        Set by whoever wants it to end.
    say : callable
        Prints a line; called in any thread.
    listener : callable
        Told of the engine's events, with the checkpointer; as `Checkpointer.add_listener` has it.

    Raises
    ------
    InvalidArgument, SpoolBusy
        The plan can't be carried out, or another one watches the folder. Nothing was done.
    CheckpointError
        The store refuses, or the disk does, or, with ``once``, what lies there can't be saved.
    """
    directory = os.path.abspath(os.path.expanduser(plan.directory))
    check_name(plan.name)
    check_address(plan.address)
    identity_outside_flow(plan.pathspec, namespace=plan.namespace)
    scratch_root = os.path.join(plan.settings.spool_dir or os.path.dirname(directory), f"ckpt-async-{os.getuid()}")
    for what, place, hint in (
        ("the spool", scratch_root, "Name another folder as --spool-dir."),
        ("the store", local_folder(plan.address), "Name another one as --to."),
    ):
        if place and os.path.commonpath([os.path.realpath(directory), os.path.realpath(place)]) == os.path.realpath(directory):
            raise InvalidArgument("watch a folder", on=directory, cause=f"{what} would stand in it, and be saved too", hint=hint)
    with _owned(directory, say):
        reader = open_reader(plan.address, say=say, give_up_after_s=LOOK_GIVE_UP_S)
        newest = _newest_stored(reader, plan.pathspec, stopped, say)
        if stopped.is_set():
            return True
        identity = _next_identity(plan, newest, scratch_root)
        settings = dataclasses.replace(plan.settings, async_upload=True)
        checkpointer = open_checkpointer(identity, plan.address, settings, scratch_root=scratch_root, say=say)
        checkpointer.add_listener(functools.partial(listener, checkpointer))
        try:
            watcher = _begin(plan, directory, checkpointer, newest, say)
            say(f"watching {directory}; checkpoints go to {plan.address.url}, as {plan.pathspec}, attempt {identity.attempt}")
        except BaseException:
            # What earlier ones have left goes on being stored without this one.
            with contextlib.suppress(CheckpointError):
                checkpointer.close(timeout_s=0.0, retried=True)
            raise
        if not plan.once:
            _wait(checkpointer, watcher, stopped, say)
        if stopped.is_set():
            say("told to stop: what is complete is saved and stored; a second Ctrl-C leaves at once.")
        return _end(plan, checkpointer, watcher, stopped, say)


@contextlib.contextmanager
def _owned(directory: str, say: Say) -> Iterator[None]:
    """Keep others from watching the same folder meanwhile: a lock on the folder itself, which leaves nothing behind."""
    try:
        os.makedirs(directory, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument("watch a folder", on=directory, cause=error.strerror or str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolBusy(
                "watch a folder", on=directory, cause="another process watches it", hint="End that one, or watch another folder."
            ) from None
        except OSError as error:
            # Network filesystems lock no folders.
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise InvalidArgument("watch a folder", on=directory, cause=error.strerror or str(error)) from error
            say(f"{directory} can't be locked ({error.strerror}): see to it that no other process watches it.")
        yield
    finally:
        os.close(descriptor)


def _newest_stored(reader: Reader, pathspec: str, stopped: threading.Event, say: Say) -> CheckpointRecord | None:
    """Return the newest checkpoint of the task. Without its attempt nothing can be saved: so a store that does not answer is waited
    for.
    """
    while not stopped.is_set():
        try:
            try:
                return reader.latest(pathspec)
            except CheckpointDamaged as damage:
                say(f"The pointer to the newest checkpoint is damaged, the list is searched: {damage}")
                return next(iter(reader.list(pathspec)), None)
        except StoreUnavailable as error:
            say(f"The store does not answer; nothing is watched before it has told what it holds: {error}")
            stopped.wait(LOOK_AGAIN_S)
    return None


def _next_identity(plan: WatchPlan, newest: CheckpointRecord | None, scratch_root: str) -> TaskIdentity:
    """Return who is to save: a new attempt, after all that have stored something, or have left something here."""
    last = identity_outside_flow(plan.pathspec, attempt=MAX_ATTEMPT, namespace=plan.namespace)
    here = [attempt_of(os.path.basename(folder)) for folder in older_attempts(spool_folder(scratch_root, plan.address, last))]
    attempt = 1 + max([*here, -1 if newest is None else newest.attempt])
    if attempt > MAX_ATTEMPT:
        raise InvalidArgument(
            "watch a folder", on=plan.pathspec, cause=f"it has had {MAX_ATTEMPT + 1} attempts", hint="Name another task with --as."
        )
    return dataclasses.replace(last, attempt=attempt)


def _begin(plan: WatchPlan, directory: str, checkpointer: Checkpointer, newest: CheckpointRecord | None, say: Say) -> Watcher:
    """Restore, where that is wanted and possible, and begin to watch."""
    known = False
    if plan.restore and os.listdir(directory):
        say(f"{directory} is not empty: nothing is loaded into it.")
    elif plan.restore:
        loaded = checkpointer.resume("fresh", directory)
        known = loaded is not None
        say("There is no checkpoint to begin with." if loaded is None else f"loaded {loaded.key} into {directory}")
    stored = () if known else _files_of_newest(checkpointer, newest, say)
    return Watcher(checkpointer, directory, plan.rules, known=known, stored=stored, name=plan.name, say=say)


def _files_of_newest(checkpointer: Checkpointer, newest: CheckpointRecord | None, say: Say) -> list[tuple[str, int, int]]:
    """Return what the newest checkpoint holds, stored or still in a spool: it need not be saved once more."""
    left, _ = left_saves(checkpointer.spool_folder)
    if left and (newest is None or left[0].record.order > newest.order):
        return [(file.path, file.size_bytes, file.mtime_ns) for file in left[0].entry.snapshot.files]
    if newest is None or not newest.manifest:
        return []
    from ckpt_async.transfer.download import read_manifest

    try:
        manifest = checkpointer.reader.run(functools.partial(read_manifest, record=newest))
    except (CheckpointDamaged, StoreObjectMissing, StoreUnavailable) as error:
        say(f"What the newest checkpoint holds can't be read, so that what lies in the folder is saved again: {error}")
        return []
    return [(file.path, file.size_bytes, file.mtime_ns) for file in manifest.files]


def _wait(checkpointer: Checkpointer, watcher: Watcher, stopped: threading.Event, say: Say) -> None:
    told = ""
    # A watcher that has broken down watches nothing any more: the end tells that to whoever can start another daemon.
    while not stopped.wait(RETRY_EVERY_S) and not watcher.broken:
        if not checkpointer.stats.failed:
            continue
        try:
            checkpointer.flush(RETRY_EVERY_S)
        except FlushTimeout:
            continue  # it goes on being tried
        except CheckpointError as error:
            if str(error) != told:
                told = str(error)
                say(f"The store still refuses: {error}")


def _end(plan: WatchPlan, checkpointer: Checkpointer, watcher: Watcher, stopped: threading.Event, say: Say) -> bool:
    # Told to stop: who writes goes on writing, and is not waited for.
    timeout_s = plan.settings.flush_timeout_s if plan.once else plan.grace_s
    deadline_s = time.monotonic() + timeout_s
    not_saved = watcher.stop(failed=stopped.is_set(), timeout_s=timeout_s)
    try:
        checkpointer.close(timeout_s=max(0.0, deadline_s - time.monotonic()), retried=True)
    except FlushTimeout as error:
        say(f"{error} Another `ckpt-async watch` of this folder goes on with it.")
        return False
    if not_saved is not None:
        raise not_saved
    return True
