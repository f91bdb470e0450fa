"""The folder that is loaded into: files lie in a hidden part of it until all of them have arrived."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets

from ckpt_async.disk import durable
from ckpt_async.words.errors import LoadTargetNotEmpty

__all__ = ["PARTIAL_PREFIX", "PartialFolder", "check_target"]

PARTIAL_PREFIX = ".partial-"

_ATTEMPTED = "load a checkpoint"


def check_target(target: str) -> None:
    """Make the folder to load into where it is missing.

    Raises
    ------
    LoadTargetNotEmpty
        It holds files already, or is no folder.
    """
    try:
        os.makedirs(target, exist_ok=True)
        present = [name for name in os.listdir(target) if not name.startswith(PARTIAL_PREFIX)]
    except (FileExistsError, NotADirectoryError):
        raise LoadTargetNotEmpty(_ATTEMPTED, on=target, cause="it is not a folder", hint="Name a new or an empty one.") from None
    if present:
        raise LoadTargetNotEmpty(
            _ATTEMPTED,
            on=target,
            cause=f"the folder holds {len(present)} entries already, {sorted(present)[0]!r} among them",
            hint="Name a new or an empty folder, so that nothing of yours is mixed with the checkpoint or lost.",
        )


class PartialFolder:
    """A folder of one load, locked while the load lives, so that the next load can tell what a dead one has left.

    Parameters
    ----------
    target : str
        The folder that is loaded into; made where it is missing.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.path = os.path.join(target, PARTIAL_PREFIX + secrets.token_hex(4))
        self._descriptor = -1

    def make(self) -> None:
        """Make the folder, and delete those of loads that were killed. Blocking, as are the others.

        Raises
        ------
        LoadTargetNotEmpty
            See `check_target`.
        """
        check_target(self._target)
        for name in os.listdir(self._target):
            if name.startswith(PARTIAL_PREFIX):
                _remove_if_dead(os.path.join(self._target, name))
        os.mkdir(self.path, 0o700)
        self._descriptor = _locked(self.path)

    def hand_over(self) -> None:
        """Move what was loaded up into the target; either all of it or nothing.

        Raises
        ------
        LoadTargetNotEmpty
            Something was put into the target meanwhile: a load may take long, and a rename would replace it.
        """
        check_target(self._target)
        moved: list[str] = []
        try:
            for name in sorted(os.listdir(self.path)):
                os.rename(os.path.join(self.path, name), os.path.join(self._target, name))
                moved.append(name)
        except BaseException:
            for name in moved:
                os.rename(os.path.join(self._target, name), os.path.join(self.path, name))
            raise

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
