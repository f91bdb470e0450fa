"""Leases that outlive their guard. Each is deposited with the task too, so that the death of one of the two does not end it.

A lease belongs to an open file, and lasts until the last descriptor of that is closed, in whatever process. When a guard is killed,
the task's deposits keep its leases: whoever wants to write is held back by the kernel until the next guard has taken them over and
made its copies.

A deposit is one end of a pair of sockets, in whose queue the descriptors lie. So a save of thousands of files takes one descriptor
of the task's for every `DESCRIPTORS_IN_A_DEPOSIT`, whose limit is the user's and often low. The kernel counts what lies in queues
for each user, though, and passes no more descriptors for a process once that is more than its limit of open files: so a guard
deposits no more than `deposits_allowed`.
"""

from __future__ import annotations

import array
import fcntl
import os
import resource
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["DESCRIPTORS_IN_A_DEPOSIT", "Deposits", "deposit", "deposits_allowed", "look_into", "raise_descriptor_limit", "receive"]

#: The kernel passes at most 253 with one message.
DESCRIPTORS_IN_A_DEPOSIT = 250

#: More are never asked for; the kernel's own tables have to hold them too.
MAX_DESCRIPTORS = 65536

_ROOM = socket.CMSG_SPACE(array.array("i").itemsize * (DESCRIPTORS_IN_A_DEPOSIT + 3))


def deposit(descriptors: Sequence[int]) -> socket.socket:
    """Put descriptors into a new deposit, at most `DESCRIPTORS_IN_A_DEPOSIT`. The caller's own stay as they are.

    Raises
    ------
    OSError
        The system allows no more descriptors on their way (as many as a process may open), or none at all.
    """
    putting, keeping = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        socket.send_fds(putting, [b"\0"], descriptors)
    except BaseException:
        keeping.close()
        raise
    finally:
        putting.close()
    return keeping


def deposits_allowed() -> int:
    """Return how many descriptors may lie in deposits, so that a training with the limit of open files that this process has now
    can go on passing descriptors between its own processes.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft // 2


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may allow itself; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, MAX_DESCRIPTORS)


def look_into(keeping: socket.socket) -> list[int]:
    """Return new descriptors for what lies in a deposit, which stays as it is."""
    return receive(keeping, 1, socket.MSG_PEEK)[1]


def receive(connection: socket.socket, size_bytes: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive data, and the descriptors that came with it, which no program that is started inherits.

    Raises
    ------
    OSError
        As `socket.recvmsg`.
    """
    # Not `socket.recv_fds`, which drops its flags (Python 3.11).
    data, found, _, _ = connection.recvmsg(size_bytes, _ROOM, flags | getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    descriptors = array.array("i")
    for level, kind, content in found:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)


class Deposits:
    """The deposits that a task has from the guards of its sidecars, one after the other. May be used from several threads.

    Each belongs to an entry: ``ENTRY`` of the task's own spool, or ``SPOOL/ENTRY`` of one beside it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[socket.socket]] = {}
        self._guard = threading.RLock()  # close() may come from a signal handler
        # A forked child that lives on would keep the leases of dead processes, for which nobody answers any more.
        itself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close_in_child(itself()))

    def add(self, label: str, keeping: socket.socket) -> None:
        """Take a deposit, which belongs to this object from now on."""
        with self._guard:
            self._kept.setdefault(label, []).append(keeping)

    def drop(self, label: str) -> None:
        """Give an entry's deposits back: it is in the store, or nowhere."""
        with self._guard:
            for keeping in self._kept.pop(label, ()):
                keeping.close()

    def keep_only(self, waits: Callable[[str], bool]) -> None:
        """Give those back for whose entry this returns False."""
        with self._guard:
            for label in [label for label in self._kept if not waits(label)]:
                self.drop(label)

    def labels(self) -> list[str]:
        """Return the entries that have one."""
        with self._guard:
            return list(self._kept)

    @contextmanager
    def lent(self) -> Iterator[list[tuple[int, str]]]:
        """Give descriptors for all deposits, with their labels, to be passed to a process that is started meanwhile."""
        lent: list[tuple[int, str]] = []
        try:
            with self._guard:
                for label, kept in self._kept.items():
                    for keeping in kept:
                        # Not where a standard stream belongs that this process has closed.
                        lent.append((fcntl.fcntl(keeping.fileno(), fcntl.F_DUPFD_CLOEXEC, 3), label))
            yield lent
        finally:
            for descriptor, _ in lent:
                os.close(descriptor)

    def close(self) -> None:
        """Give all back."""
        self.keep_only(lambda _: False)


def _close_in_child(deposits: Deposits | None) -> None:
    if deposits is not None:
        # Without the lock, which a thread of the parent may have held.
        for kept in list(deposits._kept.values()):
            for keeping in kept:
                keeping.close()
