"""A read lease on one file: the kernel's promise to hold back whoever wants to write to it until we have let go (Linux only).

While a lease is held nobody has the file open for writing, and nobody can: an ``open()`` for writing, or a ``truncate()``, of any
process waits, and the lease's owner gets a signal. It has `break_time_s` seconds; then the kernel takes the lease away.
The owner must be another process than the writers: a library that opens files while it holds Python's lock would wait for itself.

A mapping that may write counts as an open file, also once its descriptor is closed, on every file system tried but one: overlayfs
forgets it (Linux 6.18), see `ckpt_async.disk.mapped`. Network and user-space file systems don't see writers on
other machines, or in their server: what has not been tried is refused, see `LEASING_FILE_SYSTEMS`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import sys
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "BREAK_SIGNAL",
    "LEASING_FILE_SYSTEMS",
    "Lease",
    "LeaseRefused",
    "RefusedBecause",
    "break_time_s",
    "file_system_of",
]

#: Queued with the descriptor's number; an ordinary signal would tell neither how many nor which. 0 where there are no leases.
BREAK_SIGNAL = int(signal.SIGRTMIN) + 5 if sys.platform == "linux" else 0

#: Where the tests have seen that no writer gets past a lease.
LEASING_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay"})

_BREAK_TIME = "/proc/sys/fs/lease-break-time"
_BREAK_TIME_S = 45.0


class RefusedBecause(str, Enum):
    """Why there is no lease."""

    WRITER = "writer"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True)
class LeaseRefused:
    """A file that can't be leased.

    Attributes
    ----------
    because : RefusedBecause
        ``WRITER``: a program has it open for writing, or mapped so, at this moment. ``IMPOSSIBLE``: not this file, not here.
    reason : str
        For people.
    """

    because: RefusedBecause
    reason: str


class Lease:
    """A lease that is held, with the descriptor that it belongs to; `take` makes one, `release` ends it.

    Attributes
    ----------
    descriptor : int
        Open for reading.
    found : os.stat_result
        Of the file, looked at after the lease was granted: as long as the lease is held, content, size and mtime stay so.
    """

    def __init__(self, descriptor: int, found: os.stat_result) -> None:
        self.descriptor = descriptor
        self.found = found

    @classmethod
    def take(cls, path: str, *, folder: int | None = None) -> Lease | LeaseRefused:
        """Open a file and lease it.

        Parameters
        ----------
        path : str
            Of a regular file, no symbolic link; relative to `folder`.
        folder : int, optional
            A descriptor of a folder.

        Raises
        ------
        OSError
            The file can't be opened.
        """
        if sys.platform != "linux":
            return LeaseRefused(RefusedBecause.IMPOSSIBLE, "this operating system has no leases")
        # Non-blocking: somebody else's write lease (a file server's) would hold this open() up, and a fifo for ever.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags, dir_fd=folder)
        except BlockingIOError:
            return LeaseRefused(RefusedBecause.WRITER, "another program has a lease for writing on it")
        refused = None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                refused = LeaseRefused(RefusedBecause.IMPOSSIBLE, "it is no regular file")
                return refused
            # First the owner: where the kernel sets it itself, it names the calling thread, which gets no signals of a process.
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, BREAK_SIGNAL)
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError as error:
                refused = _refusal(error)
                return refused
            return cls(descriptor, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            if refused is not None:
                os.close(descriptor)

    @classmethod
    def inherit(cls, descriptor: int) -> Lease:
        """Answer from now on for a lease that another process took, and whose descriptor was passed to this one.

        Should the lease have ended meanwhile, it is taken anew where that is possible; else it counts as `broken`.
        """
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, BREAK_SIGNAL)
        # Once more, for the signal names the descriptor by the number that it had when the lease was set. Refused while a writer
        # waits, or where the file has another owner by now.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        return cls(descriptor, os.fstat(descriptor))

    def is_of(self, descriptor: int) -> bool:
        """Return whether a descriptor that was passed to this process is of the very open file that has this lease."""
        # The signal belongs to the open file. One that comes at this moment comes as SIGIO, after which all leases are looked at.
        fcntl.fcntl(self.descriptor, fcntl.F_SETSIG, 0)
        try:
            return fcntl.fcntl(descriptor, fcntl.F_GETSIG) == 0
        finally:
            fcntl.fcntl(self.descriptor, fcntl.F_SETSIG, BREAK_SIGNAL)

    @property
    def broken(self) -> bool:
        """Whether somebody waits for the end of the lease, or the kernel has taken it away."""
        return fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def release(self) -> None:
        """Let whoever waits go on, and close the file; may be called twice."""
        if self.descriptor >= 0:
            # Not by closing alone: the task may have a descriptor of the same open file deposited. It is refused where there is no
            # lease any more, and where the file has another owner by now: then it ends with the deposit.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(self.descriptor)
            self.descriptor = -1


def _refusal(error: OSError) -> LeaseRefused:
    if error.errno in (errno.EAGAIN, errno.EBUSY):
        return LeaseRefused(RefusedBecause.WRITER, "a program has it open for writing, or mapped so")
    if error.errno in (errno.EACCES, errno.EPERM):
        return LeaseRefused(RefusedBecause.IMPOSSIBLE, "it belongs to another user")
    cause = error.strerror or str(error)
    return LeaseRefused(RefusedBecause.IMPOSSIBLE, f"this file system, or a sandbox, grants no leases ({cause})")


def break_time_s() -> float:
    """Return how long a writer waits for the owner of a lease, in seconds, before the kernel lets it through."""
    try:
        with open(_BREAK_TIME, "rb") as file:
            return float(file.read())
    except (OSError, ValueError):
        return _BREAK_TIME_S  # hidden by a sandbox: the kernel's default


def file_system_of(descriptor: int) -> str:
    """Return the kind of the file system that an open file or folder lies on, as the kernel calls it; empty if that can't be told.

    By the mount, not by the device's number: on overlayfs a file may show that of another file system.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            mount = next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                if line.split(b" ", 1)[0] == mount:
                    return line.rpartition(b" - ")[2].split(b" ", 1)[0].decode()
    except (OSError, StopIteration, IndexError):
        pass  # no /proc, or one of a sandbox
    return ""
