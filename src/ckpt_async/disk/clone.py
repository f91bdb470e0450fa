"""Making a private copy of one file, in the cheapest way that is safe, and noticing a writer that is still at work.

Ways, in the order in which they will be tried:

- ``LINK``, a hard link guarded by a read lease: comes with a later version, needs another process, and stands first then.
- ``REFLINK``: the file system shares the blocks until one side changes (XFS, Btrfs). At once for a file that is on the disk
  already; for a file just written the kernel first writes it back, which takes longer than copying it in memory, so it is for
  older files only.
- ``COPY``: from page cache to page cache, without a sync. Promise: what was copied survives the death of every process.

Measured on ext4, 1 GiB with a warm cache: sendfile, read/write and shutil.copyfile 0.4 s alike, copy_file_range 0.4 to 0.9 s,
two threads no faster than one. sendfile is taken because it needs no buffer, and asks for Python's lock once per 32 MiB where
read and write ask far more often.

A change during the copy is seen by its size and modification time. What changes neither is not seen: two writes within one tick of
the file system's clock (some ms on older kernels), and stores through a memory mapping that was written through before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from dataclasses import dataclass
from enum import Enum

from ckpt_async.disk.scan import ScannedFile, printable, problems_error, unreadable
from ckpt_async.words.errors import SnapshotFailed

__all__ = [
    "REFLINK_MIN_AGE_S",
    "REFLINK_MIN_BYTES",
    "CloneMethod",
    "Cloned",
    "append_stable",
    "choose_method",
    "clone_stable",
    "create_private",
    "is_no_space",
    "no_space",
    "open_source",
    "send_bytes",
    "share_blocks",
]

#: A file younger than this may still be dirty: Linux writes back what is older than 30 s, looking every 5 s; doubled to be sure.
REFLINK_MIN_AGE_S = 60.0

#: Below, a reflink's fixed cost (about 50 µs, and a file of its own) is above that of the copy.
REFLINK_MIN_BYTES = 256 * 1024

_REPEATS = 3
_HINT_WRITER = "Close its writer before save()."
_CHUNK_BYTES = 32 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024
_FICLONE = 0x40049409  # _IOW(0x94, 9, int) of linux/fs.h, the same number on every architecture that this runs on

# The file system, the pair of file systems, or a sandbox does not do it; anything else is a failure of its own.
_NO_REFLINK = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class CloneMethod(str, Enum):
    """How a file is made private."""

    COPY = "copy"
    REFLINK = "reflink"


@dataclass(frozen=True)
class Cloned:
    """A clone that was made: how, and the size, mode and time of the source, which held still while it was read."""

    method: CloneMethod
    size_bytes: int
    mode: int
    mtime_ns: int


def choose_method(*, size_bytes: int, age_s: float, reflink_works: bool) -> CloneMethod:
    """Return the cheaper way for a file.

    Parameters
    ----------
    size_bytes : int
        Its length.
    age_s : float
        Seconds since it was last changed; negative where a clock runs ahead.
    reflink_works : bool
        False once the file system refused one.
    """
    if reflink_works and age_s >= REFLINK_MIN_AGE_S and size_bytes >= REFLINK_MIN_BYTES:
        return CloneMethod.REFLINK
    return CloneMethod.COPY


def clone_stable(
    source: str, target: str, method: CloneMethod, *, expected: ScannedFile | None = None, may_grow: bool = False
) -> Cloned:
    """Make `target` an independent file with one consistent state of `source`.

    A file that changes while it is copied is copied again, up to three times. One that another file is renamed over meanwhile is no
    such case: the copy is of the old one, whole.

    Parameters
    ----------
    source : str
        A regular file.
    target : str
        Must not exist; made with mode 0600 and not synced. Removed again on every failure.
    method : CloneMethod
        What to try first.
    expected : ScannedFile, optional
        The state that the file must still have. Without it any state will do, as long as it is one.
    may_grow : bool
        See `ScannedFile.may_grow`.

    Raises
    ------
    SnapshotFailed
        `source` is gone, unreadable, not as expected, or changed during each copy; or `target` can't be written or has no room.
    """
    reading, found = open_source(source)
    try:
        if expected and _state(found) != (expected.size_bytes, expected.mtime_ns):
            raise SnapshotFailed("save a file", on=printable(source), cause="it changed since it was looked at", hint=_HINT_WRITER)
        try:
            writing = create_private(target)
        except OSError as error:
            raise _failed(error, source, target, found.st_size) from error
        done = False
        try:
            cloned = _clone_open(reading, found, writing, 0, method, may_grow=may_grow)
            done = cloned is not None
        except OSError as error:
            raise _failed(error, source, target, found.st_size) from error
        finally:
            os.close(writing)
            if not done:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(target)
    finally:
        os.close(reading)
    if cloned is None:
        raise _keeps_changing(source)
    return cloned


def append_stable(source: str, pack: int, offset: int, *, may_grow: bool = False) -> Cloned:
    """Copy one consistent state of `source` into the open file `pack` from `offset` on, which is its end.

    Parameters
    ----------
    may_grow : bool
        See `ScannedFile.may_grow`.

    Raises
    ------
    SnapshotFailed
        `source` is gone, unreadable, or changed during each copy.
    OSError
        Writing failed; the caller knows how much is still to come and words it.
    """
    reading, found = open_source(source)
    try:
        cloned = _clone_open(reading, found, pack, offset, CloneMethod.COPY, may_grow=may_grow)
    finally:
        os.close(reading)
    if cloned is None:
        raise _keeps_changing(source)
    return cloned


def _clone_open(
    reading: int, found: os.stat_result, writing: int, offset: int, method: CloneMethod, *, may_grow: bool
) -> Cloned | None:
    """Give `writing`, from `offset` on, one state of `reading`; None where it never held still."""
    for _ in range(1 + _REPEATS):
        if method is CloneMethod.REFLINK and share_blocks(reading, writing):
            copied = os.fstat(writing).st_size
        else:
            method = CloneMethod.COPY
            # Only as far as the file went: one that grows faster than it is copied would never end. The growth is seen below.
            copied = send_bytes(reading, 0, writing, offset, found.st_size)
        after = os.fstat(reading)
        held_still = _state(after) == _state(found) and copied == after.st_size
        if held_still or (may_grow and found.st_size <= copied <= after.st_size):
            return Cloned(method, copied, after.st_mode & 0o777, after.st_mtime_ns)
        found = after
        os.ftruncate(writing, offset)
    return None


def open_source(source: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading; return its descriptor, which the caller closes, and its state.

    Raises
    ------
    SnapshotFailed
        It is gone, unreadable, or no regular file any more.
    """
    try:
        # Non-blocking, so that a fifo put in the file's place can't hold us up; for a regular file it changes nothing.
        reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        cause = "it was removed while it was being saved"
        raise SnapshotFailed("save a file", on=printable(source), cause=cause, hint=_HINT_WRITER) from error
    except OSError as error:
        folder, name = os.path.split(source)
        raise problems_error(folder, [unreadable(name, error)]) from error
    found = os.fstat(reading)
    if not stat.S_ISREG(found.st_mode):
        os.close(reading)
        cause = "it was replaced by something that is no regular file"
        raise SnapshotFailed("save a file", on=printable(source), cause=cause, hint=_HINT_WRITER)
    return reading, found


def create_private(target: str) -> int:
    """Create a file that must not exist, with mode 0600 whatever the umask, and return its descriptor, open for writing."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def send_bytes(source: int, source_offset: int, target: int, target_offset: int, size_bytes: int) -> int:
    """Copy a range from one open file to another and return the number of bytes: fewer where the source ends."""
    os.lseek(target, target_offset, os.SEEK_SET)
    copied = 0
    if sys.platform == "linux":
        try:
            while copied < size_bytes:
                count = os.sendfile(target, source, source_offset + copied, min(size_bytes - copied, _CHUNK_BYTES))
                if not count:
                    return copied
                copied += count
        except OSError as error:
            if copied or error.errno not in _NO_SENDFILE:
                raise
    while copied < size_bytes:
        piece = memoryview(os.pread(source, min(size_bytes - copied, _BUFFER_BYTES), source_offset + copied))
        if not piece:
            break
        copied += len(piece)
        while piece:
            piece = piece[os.write(target, piece) :]
    return copied


def no_space(target: str, needed_bytes: int, error: OSError) -> SnapshotFailed:
    """Return the error for a full disk, with what is free and what was still needed."""
    folder = os.path.dirname(target) or "."
    try:
        room = os.statvfs(folder)
        free = f"{room.f_bavail * room.f_frsize:,} bytes are free"
    except OSError:
        free = "how much is free can't be told"
    what = "the quota is used up" if error.errno == errno.EDQUOT else "the disk is full"
    return SnapshotFailed(
        "copy files",
        on=printable(folder),
        cause=f"{what}: {needed_bytes:,} bytes were still needed, {free}",
        hint="Free disk space there, name another folder with spool_dir, or keep fewer saves pending.",
    )


def is_no_space(error: OSError) -> bool:
    """Tell whether a write failed because the disk, or the user's share of it, is full."""
    return error.errno in _NO_SPACE


def share_blocks(reading: int, writing: int) -> bool:
    """Share the blocks of `reading` with the empty file `writing`; False where that is not done here."""
    if sys.platform != "linux":
        return False

    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def _state(found: os.stat_result) -> tuple[int, int]:
    # Both looks go through one descriptor, so the inode is the same by itself.
    return found.st_size, found.st_mtime_ns


def _keeps_changing(source: str) -> SnapshotFailed:
    cause = f"it keeps changing while it is being saved ({1 + _REPEATS} copies, none of one state)"
    return SnapshotFailed("save a file", on=printable(source), cause=cause, hint=_HINT_WRITER)


def _failed(error: OSError, source: str, target: str, size_bytes: int) -> SnapshotFailed:
    if is_no_space(error):
        return no_space(target, size_bytes, error)
    cause = error.strerror or str(error)
    return SnapshotFailed("copy a file", on=f"{printable(source)} to {printable(target)}", cause=cause)
