"""Links in the spools of dead attempts, taken over by a task whose worker can't guard them."""

from __future__ import annotations

import contextlib

from ckpt_async.disk.linking import make_private
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import SnapshotFailed, SpoolDamaged

__all__ = ["has_links", "keep_left_links"]


def has_links(folder: str) -> bool:
    """Return whether something lies as a link in the spool of an earlier attempt, as far as it can be read."""
    spool = Spool(folder)
    for name in spool.waiting():
        with contextlib.suppress(OSError, SpoolDamaged):
            if spool.read(name).snapshot.links:
                return True
    return False


def keep_left_links(folder: str) -> None:
    """Make private what lies as a link in the spool of an earlier attempt, before this one writes to the same files.

    Best effort: what can't be copied now stays a link, and is compared with what was saved before it is used. A spool whose own
    worker lives is left alone: there the links are guarded.
    """
    spool = Spool(folder)
    with contextlib.suppress(OSError):
        if not spool.worker_lock.try_acquire():
            return
        try:
            for name in spool.waiting():
                with contextlib.suppress(OSError, SnapshotFailed, SpoolDamaged):
                    folder = spool.entry_folder(name)
                    for file in spool.read(name).snapshot.links:
                        make_private(folder, file.stored_in, inode=file.inode, size_bytes=file.size_bytes, mtime_ns=file.mtime_ns)
        finally:
            spool.worker_lock.release()
