"""Names for what files hold: the guard gives two links one name only where nobody can have written to the file between them.

As long as a lease is held that is certain. When it ends, the file's state is noted, and a later link to a file that still is in
that state gets the old name: from the end of the lease on, whoever writes to the file moves its ctime, which no program can set.
There is no writer from before, as there could be without the lease: a mapping that was written through once writes on without
moving any time.
"""

from __future__ import annotations

import os
import secrets

from ckpt_async.disk.lease import Lease
from ckpt_async.disk.linking import FileState

__all__ = ["ContentNames"]

#: Where a store through a new mapping moves the ctime. tmpfs does not see one to a page that was read first (Linux 6.18), and what
#: lies below an overlay can't be told.
TELLING_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})

#: So many of the files that were let go of last are known again; a few hundred bytes each.
FILES_KNOWN = 10_000

#: Longer than the clock of a file system stands still between two ticks; some of them count whole seconds.
TICK_NS = 100_000_000


class ContentNames:
    """The names that one guard gives. Another guard never gives the same."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._given = 0
        #: By inode.
        self._let_go: dict[int, tuple[FileState, str]] = {}

    def new(self) -> str:
        """Return a name that no other content has."""
        self._given += 1
        return f"{self._prefix}-{self._given}"

    def of(self, found: os.stat_result, before: FileState) -> str:
        """Return the name of what a file holds on which a lease was just taken.

        Parameters
        ----------
        found : os.stat_result
            Of the file, under the lease.
        before : FileState
            Before it was linked, which moves its ctime. Whoever writes between the two is seen by size or mtime.
        """
        then, content = self._let_go.pop(found.st_ino, (None, ""))
        unmoved = (found.st_ino, found.st_size, found.st_mtime_ns) == (before.inode, before.size_bytes, before.mtime_ns)
        return content if unmoved and then == before else self.new()

    def let_go(self, lease: Lease, content: str, file_system: str) -> None:
        """Note the state of a file whose lease is about to be released, and which has no link of ours any more."""
        if file_system not in TELLING_FILE_SYSTEMS or lease.broken:
            return
        state = FileState.of(os.fstat(lease.descriptor))
        # Who writes within this tick of the clock leaves the ctime as it is; the mtime shows it, unless that is of this tick too.
        in_one_tick = abs(state.ctime_ns - state.mtime_ns) < TICK_NS or state.ctime_ns % 10**9 == 0
        if in_one_tick or lease.broken:
            return
        self._let_go.pop(state.inode, None)
        self._let_go[state.inode] = (state, content)
        if len(self._let_go) > FILES_KNOWN:
            del self._let_go[next(iter(self._let_go))]
