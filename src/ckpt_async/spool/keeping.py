"""Links in spools, taken over by a task whose worker can't guard them."""

from __future__ import annotations

import contextlib

from ckpt_async.spool.spool import Spool
from ckpt_async.spool.torn import make_links_private
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
    """Make private what lies as a link in a spool, before this task writes to the same files.

    Best effort: what can't be copied now stays a link, and is compared with what was saved before it is used. Another worker may be
    at the spool, and guard it: that one may be dying at this moment, and whoever replaces a link does it in one step.
    """
    spool = Spool(folder)
    for name in spool.waiting():
        with contextlib.suppress(OSError, SnapshotFailed, SpoolDamaged):
            make_links_private(spool, spool.read(name))
