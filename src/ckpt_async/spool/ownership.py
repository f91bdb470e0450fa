"""Who owns a spool: locks that the kernel gives up when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import struct
import sys

from ckpt_async.words.errors import SpoolBusy

__all__ = ["FileLock"]

#: Whose locks this process holds, by process and path. Each step is one operation of a dict, so it needs no lock of its own.
_owners: dict[tuple[int, str], FileLock] = {}

# ``struct flock``, and where the type of the lock stands in it.
_FLOCK, _FLOCK_TYPE = ("@qqihh", 3) if sys.platform == "darwin" else ("@hhqqi4x", 0)


def _flock(kind: int) -> tuple[int, ...]:
    """The fields for a lock of the whole file."""
    return (0, 0, 0, kind, os.SEEK_SET) if sys.platform == "darwin" else (kind, os.SEEK_SET, 0, 0, 0)


class FileLock:
    """An exclusive lock on a file, between processes.

    A POSIX record lock, on purpose: forked children (data-loader workers) do not inherit it, so it ends with its process even where
    they live on. The kernel does not keep two owners within one process apart, and drops the lock when any descriptor of the file
    is closed: so a file of which this process holds the lock is not opened again.

    Parameters
    ----------
    path : str
        Made with mode 0600 where it is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1
        self._key = (0, "")

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor >= 0

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; returns whether it is held now."""
        if self.held:
            return True
        key = self._make_key()
        if _owners.setdefault(key, self) is not self:
            return False
        descriptor = -1
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            if descriptor >= 0:
                os.close(descriptor)
            del _owners[key]
            if descriptor >= 0 and isinstance(error, (BlockingIOError, PermissionError)):
                return False
            raise
        self._descriptor, self._key = descriptor, key
        return True

    def is_held(self) -> bool:
        """Return whether anybody holds the lock, without taking it: who comes to take it meanwhile is not turned away.

        Raises
        ------
        OSError
            The file can't be opened. One that is missing is held by nobody.
        """
        if self._make_key() in _owners:
            return True
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, *_flock(fcntl.F_WRLCK)))
            return bool(struct.unpack(_FLOCK, answer)[_FLOCK_TYPE] != fcntl.F_UNLCK)
        finally:
            os.close(descriptor)

    def _make_key(self) -> tuple[int, str]:
        # With the process: a forked child has a copy of the book, and none of the locks.
        return os.getpid(), os.path.realpath(self.path)

    def acquire(self, *, attempted: str) -> None:
        """Take the lock.

        Raises
        ------
        SpoolBusy
            It is held already.
        """
        if not self.try_acquire():
            raise SpoolBusy(
                attempted,
                on=self.path,
                cause="it is owned already, by another live process or by this one",
                hint="Wait until that process has ended, or end it; in this process, close what is open.",
            )

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1
            _owners.pop(self._key, None)
