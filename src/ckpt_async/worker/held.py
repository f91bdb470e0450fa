"""What a guard holds: files under lease, and the folders of the entries whose links they are."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ckpt_async.disk.lease import Lease
from ckpt_async.spool.kept import is_kept
from ckpt_async.spool.spool import Spool

__all__ = ["GuardedFile", "GuardedFolder"]


@dataclass(eq=False)
class GuardedFolder:
    """An entry's folder, by a descriptor that follows it from state to state.

    `deposited` tells whether the task has the leases of its links too.
    """

    spool: Spool
    entry: str
    descriptor: int
    torn: bool = False
    deposited: bool = False

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"

    @property
    def removed(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0

    @property
    def stored(self) -> bool:
        """Whether the store has it: what is kept nevertheless is not worth a copy when somebody overwrites it."""
        return self.removed or is_kept(self.spool, self.entry)


@dataclass(eq=False)
class GuardedFile:
    """A file with at least one link in the spool. One lease serves all links.

    `inherited` are further descriptors from the deposits of a dead guard: each may have a lease of its own on the same file, or
    share that one.
    """

    lease: Lease
    content: str
    file_system: str
    links: list[tuple[GuardedFolder, str]] = field(default_factory=list)
    copying: bool = False
    inherited: list[Lease] = field(default_factory=list)

    def stands(self, folder: GuardedFolder, name: str) -> bool:
        """Whether the link is still there. A task that did not wait for our answer has removed its own."""
        try:
            found = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (self.lease.found.st_dev, self.lease.found.st_ino)

    def release(self) -> None:
        """Let whoever waits for the file go on."""
        for lease in (self.lease, *self.inherited):
            lease.release()
