"""Writing the files of a snapshot back, as independent copies."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from itertools import groupby

from ckpt_async.disk.clone import CloneMethod, choose_method, create_private, is_no_space, no_space, send_bytes, share_blocks
from ckpt_async.disk.scan import printable
from ckpt_async.disk.snapshot import PACK, Snapshot, SnapshotFile
from ckpt_async.words.errors import CheckpointError, InvalidArgument, LoadTargetNotEmpty, SpoolDamaged

__all__ = ["restore_snapshot"]

_RESTORE = "restore the files of a checkpoint"

# A link is replaced once, by its private copy.
_RESTORE_TRIES = 3

# What a disk refuses once (a volume in the network) must not make a retry pass its newest save by.
_OPEN_TRIES = 3


def restore_snapshot(snapshot: Snapshot, folder: str, target: str) -> None:
    """Write the files of a snapshot, as independent copies, with their modes and times; folders too, empty ones included.
    Nothing is synced.

    Parameters
    ----------
    snapshot : Snapshot
        What `folder` holds.
    folder : str
        Where the snapshot lies.
    target : str
        An existing, empty folder.

    Raises
    ------
    FileNotFoundError
        The snapshot was removed meanwhile (its checkpoint is in the store now): nothing else raises it. `target` may hold a part.
    SpoolDamaged
        A file of the snapshot has not the length that it should have.
    InvalidArgument, LoadTargetNotEmpty
        `target` is no folder, or holds something.
    CheckpointError
        Writing failed, for example because the disk is full.
    """
    _check_target(target)
    try:
        for path in _folders_of(snapshot):
            os.makedirs(os.path.join(target, path), exist_ok=True)
    except OSError as error:
        raise _restore_failed(error, target, snapshot.size_bytes) from error
    # Each holder is opened once: the files of the pack come together, in the order in which they lie.
    in_place = sorted(snapshot.files, key=lambda file: (file.stored_in, file.offset))
    for stored_in, files in groupby(in_place, key=lambda file: file.stored_in):
        _restore_from(os.path.join(folder, stored_in), list(files), target)


def _restore_from(source: str, files: list[SnapshotFile], target: str) -> None:
    """Write the files that lie in `source`, which is opened once for all of them."""
    for _ in range(_RESTORE_TRIES):
        holder = _open_holder(source)
        try:
            for file in files:
                _restore_file(file, holder, os.path.join(target, file.path), source)
            # A link holds what was saved until a private copy takes its place; the original may be written to from then on.
            replaced = os.stat(source).st_ino != os.fstat(holder).st_ino
            intact = all(file.is_intact(os.fstat(holder)) for file in files)
        finally:
            os.close(holder)
        if intact and not replaced:
            return
        if not replaced:
            break
        for file in files:
            os.unlink(os.path.join(target, file.path))
    cause = f"it was written to after '{printable(files[0].path)}' had been saved, while no process guarded it"
    raise SpoolDamaged(_RESTORE, on=printable(source), cause=cause)


def _open_holder(source: str) -> int:
    for tries_left in reversed(range(_OPEN_TRIES)):
        try:
            return os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            if not tries_left:
                raise SpoolDamaged(_RESTORE, on=printable(source), cause=error.strerror or str(error)) from error
    raise AssertionError("not reached")


def _check_target(target: str) -> None:
    try:
        if not stat.S_ISDIR(os.stat(target).st_mode):
            raise InvalidArgument(_RESTORE, on=printable(target), cause="it is not a folder")
        with os.scandir(target) as entries:
            first = next(entries, None)
    except OSError as error:
        raise InvalidArgument(_RESTORE, on=printable(target), cause=error.strerror or str(error)) from error
    if first is not None:
        cause = f"it holds '{printable(first.name)}' already"
        raise LoadTargetNotEmpty(_RESTORE, on=printable(target), cause=cause, hint="Name an empty folder.")


def _folders_of(snapshot: Snapshot) -> Iterable[str]:
    """Return every folder to be made: those of the scan, and the parents of files, in case a description lacks one."""
    parents = {os.path.dirname(file.path) for file in snapshot.files} - {""}
    return sorted(parents.union(snapshot.directories))


def _restore_file(file: SnapshotFile, holder: int, target: str, source: str) -> None:
    found = os.fstat(holder)
    end = file.offset + file.size_bytes
    if found.st_size < end or (file.stored_in != PACK and found.st_size != end):
        cause = f"'{printable(file.path)}' should end at byte {end:,} of it, it has {found.st_size:,}"
        raise SpoolDamaged(_RESTORE, on=printable(source), cause=cause)
    age_s = time.time() - found.st_ctime
    method = choose_method(size_bytes=file.size_bytes, age_s=age_s, reflink_works=file.stored_in != PACK)
    try:
        writing = create_private(target)
        try:
            if not (method is CloneMethod.REFLINK and share_blocks(holder, writing)):
                send_bytes(holder, file.offset, writing, 0, file.size_bytes)
            os.fchmod(writing, file.mode)
            os.utime(writing, ns=(file.mtime_ns, file.mtime_ns))
        finally:
            os.close(writing)
    except OSError as error:
        raise _restore_failed(error, target, file.size_bytes) from error


def _restore_failed(error: OSError, target: str, size_bytes: int) -> CheckpointError:
    if is_no_space(error):
        return no_space(target, size_bytes, error)
    return CheckpointError(_RESTORE, on=printable(target), cause=error.strerror or str(error))
