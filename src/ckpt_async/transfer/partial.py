"""The hidden folder inside a load's target where files lie until all of them have arrived."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets

from ckpt_async.disk import durable

__all__ = ["PARTIAL_PREFIX", "PartialFolder"]

PARTIAL_PREFIX = ".partial-"


class PartialFolder:
    """A folder of one load, locked while the load lives, so that the next load can tell what a dead one has left.

    Parameters
    ----------
    target : str
        The existing folder that is loaded into.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.path = os.path.join(target, PARTIAL_PREFIX + secrets.token_hex(4))
        self._descriptor = -1

    def make(self) -> None:
        """Make the folder, and delete those of loads that were killed. Blocking, as is `remove`."""
        for name in os.listdir(self._target):
            if name.startswith(PARTIAL_PREFIX):
                _remove_if_dead(os.path.join(self._target, name))
        os.mkdir(self.path, 0o700)
        self._descriptor = _locked(self.path)

    def remove(self) -> None:
        """Delete the folder with all that is still in it, as far as the disk allows; may be called twice."""
        # What stays is hidden and of no use; the next load into this target deletes it.
        with contextlib.suppress(OSError):
            durable.remove_tree(self.path)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _locked(path: str) -> int:
    """Open and lock a folder; the kernel gives the lock up when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_dead(path: str) -> None:
    try:
        descriptor = _locked(path)
    except (BlockingIOError, FileNotFoundError, NotADirectoryError):
        return  # Of a load that lives; or removed by it in this moment; or no folder, so none of ours.
    try:
        durable.remove_tree(path)
    finally:
        os.close(descriptor)
