"""Links in spools, taken over by a task whose worker can't guard them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from ckpt_async.spool.spool import Spool
from ckpt_async.spool.torn import make_links_private
from ckpt_async.words.errors import SnapshotFailed, SpoolDamaged

__all__ = ["keep_left_links", "left_links"]


def left_links(folders: Iterable[str], *, guarded: bool) -> list[str]:
    """Return the spools of earlier attempts in which something lies as a link, as far as they can be read.

    Parameters
    ----------
    folders : iterable of str
        The spools.
    guarded : bool
        Whether the worker is going to guard them. Else they are made private now, for the task may write to the same files from now
        on, and none is returned.
    """
    linked = [folder for folder in folders if _has_links(folder)]
    if guarded:
        return linked
    for folder in linked:
        keep_left_links(folder)
    return []


def _has_links(folder: str) -> bool:
    spool = Spool(folder)
    for name in spool.waiting():
        with contextlib.suppress(OSError, SpoolDamaged):
            if spool.read(name).snapshot.links:
                return True
    return False


def keep_left_links(folder: str) -> None:
    """Make private what lies as a link in a spool, before this task writes to the same files.

    Best effort: what can't be copied now stays a link, and is compared with what was saved before it is used. Another worker may be
    at the spool, and guard it: that one may be dying at this moment, and whoever replaces a link does it in one step.
    """
    spool = Spool(folder)
    for name in spool.waiting():
        with contextlib.suppress(OSError, SnapshotFailed, SpoolDamaged):
            make_links_private(spool, spool.read(name))
