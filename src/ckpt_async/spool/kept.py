"""Saves that are in the store and stay in the spool, so that a next attempt on this machine need not load them from there.

They are a convenience: whoever needs the room may delete them, and what is not as it was saved is passed by. Nobody guards their
links: an overwrite of the original costs its writer nothing, and is seen by the file's state. There is a folder for them only as
long as anything is to be kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from ckpt_async.disk import durable
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import ENTRY_FILE, EntryState
from ckpt_async.words.errors import SpoolDamaged

if TYPE_CHECKING:
    from ckpt_async.spool.entry import Entry

__all__ = ["BOOT_FILE", "boot_id", "drop_all_kept", "drop_kept", "end_keeping", "is_kept", "keep", "kept_folder", "read_kept"]

#: Two writes within one tick of a file system's clock leave the same time. A link to a file that was written to so recently is not
#: kept: whether it is overwritten from now on could not be told.
CLOCK_TICK_NS = 20_000_000

#: Tells during which run of the machine an entry was kept.
BOOT_FILE = "boot"


def boot_id() -> bytes:
    """Return what tells this run of the machine from others; empty where the system has no such thing (macOS)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except FileNotFoundError:
        return b""


def kept_folder(spool: Spool, entry: str) -> str:
    """Return where a kept entry lies."""
    return os.path.join(spool.folder, EntryState.KEPT, entry)


def is_kept(spool: Spool, entry: str) -> bool:
    """Return whether an entry is in the store and kept. It never goes back from there."""
    return os.path.isdir(kept_folder(spool, entry))


def keep(spool: Spool, entry: Entry, limit: int) -> bool:
    """Keep an active entry that is in the store, and delete the oldest ones beyond `limit`; returns False where it is not kept."""
    now_ns = time.time_ns()
    if any(now_ns - file.mtime_ns < CLOCK_TICK_NS for file in entry.snapshot.links):
        return False
    active = os.path.join(spool.folder, EntryState.ACTIVE, entry.id)
    if not os.path.isdir(os.path.join(spool.folder, EntryState.KEPT)):
        return False  # Nothing is to be kept any more.
    try:
        durable.write_file(os.path.join(active, BOOT_FILE), boot_id(), sync=False)
        durable.rename(active, kept_folder(spool, entry.id), sync=spool.syncs_moves)
    except OSError:
        return False  # A full disk: then it makes room.
    for name in _names(spool)[:-limit]:
        drop_kept(spool, name)
    return True


def read_kept(spool: Spool) -> list[Entry]:
    """Return the kept entries, newest first. One that can't be read is passed by: it is in the store."""
    from ckpt_async.spool.entry import Entry  # there is hardly ever one to read

    entries = []
    for name in reversed(_names(spool)):
        path = os.path.join(kept_folder(spool, name), ENTRY_FILE)
        with contextlib.suppress(OSError, SpoolDamaged), open(path, "rb") as file:
            entries.append(Entry.from_json(name, file.read(), source=path))
    return entries


def drop_kept(spool: Spool, entry: str) -> None:
    """Delete a kept entry."""
    trash = os.path.join(spool.folder, EntryState.TRASH, entry)
    # What stays goes with the spool, or with the next one that needs room.
    with contextlib.suppress(OSError):
        durable.rename(kept_folder(spool, entry), trash, sync=False)
        durable.remove_tree(trash)


def drop_all_kept(spool: Spool) -> bool:
    """Delete all kept entries; returns whether there were any."""
    names = _names(spool)
    for name in names:
        drop_kept(spool, name)
    return bool(names)


def end_keeping(spool: Spool) -> bool:
    """Delete all kept entries, and keep none from now on; returns whether any were to be kept until now."""
    drop_all_kept(spool)
    try:
        os.rmdir(os.path.join(spool.folder, EntryState.KEPT))
    except OSError:
        return False
    return True


def _names(spool: Spool) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(spool.folder, EntryState.KEPT)))
    except FileNotFoundError:
        return []
