"""Who owns a spool: locks that the kernel gives up when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os

from ckpt_async.words.errors import SpoolBusy

__all__ = ["FileLock"]


class FileLock:
    """An exclusive lock on a file, between processes.

    A POSIX record lock, on purpose: forked children (data-loader workers) do not inherit it, so it ends with its process even where
    they live on. The price: within a process one path must be opened by one `FileLock` at a time.

    Parameters
    ----------
    path : str
        Made with mode 0600 where it is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor >= 0

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; returns whether it is held now."""
        if self.held:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def acquire(self, *, attempted: str) -> None:
        """Take the lock.

        Raises
        ------
        SpoolBusy
            Another process holds it.
        """
        if not self.try_acquire():
            raise SpoolBusy(
                attempted, on=self.path, cause="another live process owns it", hint="Wait until that process has ended, or end it."
            )

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1
