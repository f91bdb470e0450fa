"""Saves that can't be kept: a linked file was written to before it could be made private. They are never uploaded, and it is told.

The mark is a file in the entry's folder. It outlives the process that has set it, so whoever takes the entry up says the same.
"""

from __future__ import annotations

import contextlib
import json
import os

from ckpt_async.disk import durable
from ckpt_async.disk.linking import LinkGuard, make_private
from ckpt_async.spool.entry import Entry
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import SnapshotFailed

__all__ = ["TORN_FILE", "check_links", "keep_links", "mark_torn", "torn_error"]

TORN_FILE = "torn"

_ATTEMPTED = "keep what was saved"
_HINT = "Later saves are not affected. With snapshot='copy' files are never linked."


def mark_torn(folder: str, cause: str) -> None:
    """Mark an entry whose folder this is. Raises OSError where there is no room even for that."""
    durable.write_file(os.path.join(folder, TORN_FILE), json.dumps(cause).encode(), sync=False)


def torn_error(folder: str, entry: str) -> SnapshotFailed | None:
    """Return why the entry in this folder can't be used; None where it can."""
    try:
        with open(os.path.join(folder, TORN_FILE), "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        cause = str(json.loads(text))
    except ValueError:
        cause = "a file of it was written to before it had been copied"
    return SnapshotFailed(f"{_ATTEMPTED} as number {int(entry)}", on=folder, cause=cause, hint=_HINT)


def check_links(entry: Entry, folder: str) -> None:
    """Check that the linked files of an entry are what was saved, as far as their state tells; mark the entry where they are not.

    While a guard is alive they are. It is asked before and after an upload all the same: a guard can be killed, and be too late.

    Raises
    ------
    SnapshotFailed
        They are not.
    FileNotFoundError
        The entry is gone from there.
    """
    known = torn_error(folder, entry.id)
    if known is not None:
        raise known
    for file in entry.snapshot.links:
        cause = f"{file.path!r} was written to while it was not guarded: the uploader had just been killed, or was too slow"
        try:
            intact = file.is_intact(os.stat(os.path.join(folder, file.stored_in), follow_symlinks=False))
        except FileNotFoundError:
            if not os.path.isdir(folder):
                raise
            cause, intact = f"{file.path!r} could not be copied before it was written to", False
        if not intact:
            with contextlib.suppress(OSError):  # a full disk; whoever looks again finds the same
                mark_torn(folder, cause)
            raise SnapshotFailed(f"{_ATTEMPTED} as number {int(entry.id)}", on=folder, cause=cause, hint=_HINT)


def keep_links(spool: Spool, entry: Entry, guard: LinkGuard | None) -> None:
    """See to it that the links of an entry that was just published are guarded, or private: called before ``save()`` returns.

    A guard that answers now was alive after the publishing; should it die later, its successor finds the entry. One that died
    before may have had its successor look into the spool too early.

    Parameters
    ----------
    guard : LinkGuard or None
        Which has granted them.

    Raises
    ------
    SnapshotFailed
        One of the files was written to in between. The entry is given up.
    """
    if not entry.snapshot.links or (guard is not None and guard.holds(entry.id)):
        return
    try:
        folder = os.open(spool.entry_folder(entry.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # stored in this moment
    # By its descriptor: the worker may move the folder meanwhile. There are links on Linux only.
    path = f"/proc/self/fd/{folder}"
    try:
        for file in entry.snapshot.links:
            make_private(path, file.stored_in, inode=file.inode, size_bytes=file.size_bytes, mtime_ns=file.mtime_ns)
    except SnapshotFailed as error:
        mark_torn(path, error.cause)
        spool.drop(entry.id)
        raise
    finally:
        os.close(folder)
