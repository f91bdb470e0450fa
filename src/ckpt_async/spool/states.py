"""The names in a spool: of its entries, of the states that they go through, of the file that describes one."""

from __future__ import annotations

from ckpt_async.words.groups import GROUP_STRIDE

__all__ = ["ENTRY_FILE", "EntryState", "entry_id", "version_of"]

ENTRY_FILE = "entry.json"


class EntryState:
    """The states of an entry, each the name of a folder of the spool.

    ``staging``: the snapshot is being taken. ``ready``: saved; waits for the worker. ``active``: the worker has begun the upload.
    ``kept``: stored, and kept for a next attempt; only with `Settings.keep_local`. ``trash``: stored or given up; being deleted.
    """

    STAGING = "staging"
    READY = "ready"
    ACTIVE = "active"
    KEPT = "kept"
    TRASH = "trash"
    ALWAYS = (STAGING, READY, ACTIVE, TRASH)


def entry_id(version: int) -> str:
    """Return the name of the entry of this save number; sorted by name is sorted by age."""
    return f"{version:010d}" if version < GROUP_STRIDE else f"1{version:018d}"


def version_of(entry: str) -> int:
    """Return the save number of the entry of this name."""
    return int(entry if len(entry) == 10 else entry[1:])
