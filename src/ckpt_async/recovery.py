"""What a new attempt goes on from: the newest of what the store has and of what dead attempts left on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ckpt_async.disk.restore import restore_snapshot
from ckpt_async.reader import Reader
from ckpt_async.spool.neighbours import LeftSave, left_in_scope, left_saves
from ckpt_async.spool.spool import Spool
from ckpt_async.transfer.download import check_target, hand_over
from ckpt_async.transfer.partial import PartialFolder
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointError, InvalidArgument, SpoolDamaged, StoreError, StoreUnavailable
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord, supersedes

__all__ = ["POLICIES", "resume"]

POLICIES = ("fresh", "eager")

#: How often the spools are looked at again because a worker emptied them meanwhile.
LOOKS = 5


def resume(
    policy: str,
    *,
    identity: TaskIdentity,
    spool_folder: str,
    reader: Reader,
    store_url: str,
    target: str,
    say: Callable[[str], None],
    bring_home: Callable[[Sequence[LeftSave]], None],
) -> CheckpointRecord | None:
    """Load the newest checkpoint that the policy allows into the empty folder `target`.

    ``"fresh"``: of this task, where this is not its first attempt. ``"eager"``: of this task, else of its scope. A checkpoint
    that turns out damaged is named, and the next older one is taken.

    Parameters
    ----------
    bring_home : callable
        Is given what dead tasks of the scope left on this machine, after the load.

    Returns
    -------
    CheckpointRecord or None
        What was loaded; None where there is nothing.

    Raises
    ------
    CheckpointDamaged
        There are checkpoints, and none of them can be loaded: training from zero must be the user's decision.
    """
    if policy not in POLICIES:
        raise InvalidArgument("resume from a checkpoint", on=f"policy={policy!r}", cause=f"allowed are {', '.join(POLICIES)}")
    for _ in range(LOOKS):
        left, unreadable = left_saves(spool_folder)
        others: list[LeftSave] = []
        for damage in unreadable:
            say(f"A save of an earlier attempt can't be read and is passed by: {damage}")
        if policy == "eager":
            others, unreadable = left_in_scope(spool_folder, store_url, identity)
            for damage in unreadable:
                say(f"A save that another task left can't be read and is passed by: {damage}")
        if policy == "fresh" and identity.attempt == 0 and not _resumable(left):
            return None
        sources = [_Source(_of_task(identity, reader, say), _resumable(left))]
        if policy == "eager":
            sources.append(_Source(_of_scope(identity, reader, say), _resumable(others)))
        try:
            restored = _load_newest(sources, reader, target, say)
        except FileNotFoundError:
            # A worker that is still alive has stored it and removed it from the spool: it is in the store now. Look again.
            continue
        if others:
            bring_home(others)
        return restored
    raise StoreUnavailable(
        "resume from a checkpoint",
        on=spool_folder,
        cause=f"what lies there changed {LOOKS} times while it was read",
        hint="Start again.",
    )


def _resumable(left: list[LeftSave]) -> list[LeftSave]:
    return [one for one in left if one.record.latest]


@dataclass(frozen=True)
class _Source:
    """What there is of one owner, the task or its scope: in the store, and in spools on this machine; both newest first."""

    stored: Iterator[CheckpointRecord]
    left: list[LeftSave]


def _load_newest(sources: list[_Source], reader: Reader, target: str, say: Callable[[str], None]) -> CheckpointRecord | None:
    """Try what the store has and what the spools hold, source by source, newest first, until one is good."""
    damages: list[CheckpointError] = []
    trouble: StoreError | None = None
    for source in sources:
        left = source.left
        try:
            for record in source.stored if trouble is None else ():
                newer = [one for one in left if supersedes(one.record, record)]
                left = [one for one in left if one not in newer]
                if (restored := _from_spool(newer, target, say, damages)) is not None:
                    return restored
                try:
                    reader.load_record(record, target)
                    return record
                except CheckpointDamaged as damage:
                    say(f"A checkpoint is damaged, an older one is tried: {damage}")
                    damages.append(damage)
        except StoreError as error:
            # Nothing that was saved is lost while the machine stays up, whatever the store does or refuses.
            trouble = error
        if (restored := _from_spool(left, target, say, damages)) is not None:
            if trouble is not None:
                say(f"The store can't be read; what lies on this machine is the newest that is known: {trouble}")
            return restored
    if trouble is not None:
        raise trouble
    if damages:
        raise damages[0]
    return None


def _of_task(identity: TaskIdentity, reader: Reader, say: Callable[[str], None]) -> Iterator[CheckpointRecord]:
    """Yield the task's checkpoints that may be resumed from, newest first; the list is read only where the first is not good."""
    first = None
    try:
        first = reader.latest(identity.pathspec)
        if first is not None:
            yield first
        elif identity.attempt == 0:
            return
        # A retry looks at the list: the machine may have been lost between a record and the pointer to it.
    except CheckpointDamaged as damage:
        say(f"The pointer to the task's latest checkpoint is damaged, the list is searched: {damage}")
    for record in reader.list(identity.pathspec):
        if record.latest and (first is None or record.order < first.order):
            yield record


def _of_scope(identity: TaskIdentity, reader: Reader, say: Callable[[str], None]) -> Iterator[CheckpointRecord]:
    """Yield likewise what any run of the scope has stored."""
    first = None
    try:
        first = reader.latest_at(keys.scope_latest_key(identity))
        if first is None:
            return
        yield first
    except CheckpointDamaged as damage:
        say(f"The pointer to the scope's latest checkpoint is damaged, the list is searched: {damage}")
    for record in reader.list_scope(keys.scope_records_prefix(identity)):
        if record.latest and (first is None or record.key != first.key):
            yield record


def _from_spool(
    left: list[LeftSave], target: str, say: Callable[[str], None], damages: list[CheckpointError]
) -> CheckpointRecord | None:
    """Load the newest of these that is whole.

    Raises
    ------
    FileNotFoundError
        One of them is gone from the spool.
    """
    for one in left:
        check_target(target)
        partial = PartialFolder(target)
        try:
            partial.make()
            _restore(one, partial.path)
            hand_over(partial.path, target)
        except SpoolDamaged as damage:
            say(f"A save that was left on this machine is damaged, an older one is tried: {damage}")
            damages.append(damage)
            continue
        finally:
            partial.remove()
        return one.entry.record
    return None


def _restore(one: LeftSave, target: str) -> None:
    """Write the files of a save; see `restore_snapshot`. A file that an entry lacks, which is still there, is damage."""
    spool = Spool(one.folder)
    try:
        restore_snapshot(one.entry.snapshot, spool.entry_folder(one.entry.id), target)
    except FileNotFoundError as error:
        if not _lacks(spool, one.entry.id, os.path.basename(error.filename or "")):
            raise
        raise SpoolDamaged("read a saved checkpoint", on=error.filename, cause="the file is missing") from error


def _lacks(spool: Spool, entry: str, name: str) -> bool:
    """Return whether an entry that is still in the spool lacks one of its files: then it was neither moved nor stored."""
    try:
        folder = os.open(spool.entry_folder(entry), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # By the descriptor, which goes along with the folder wherever a transition moves it.
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return False
    except FileNotFoundError:
        # Files are deleted in the trash alone, from where no entry comes back.
        return spool.holds(entry)
    finally:
        os.close(folder)
