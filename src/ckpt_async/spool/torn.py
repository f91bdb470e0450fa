"""Saves that can't be kept: a linked file was written to before it could be made private. They are never uploaded, and it is told.

The mark is a file in the entry's folder. It outlives the process that has set it, so whoever takes the entry up says the same.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ckpt_async.disk import durable
from ckpt_async.disk.linking import LinkGuard, make_private
from ckpt_async.spool.entry import Entry
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import version_of
from ckpt_async.words.errors import SnapshotFailed

__all__ = ["TORN_FILE", "check_links", "keep_links", "make_links_private", "mark_torn", "torn_error"]

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
    return SnapshotFailed(f"{_ATTEMPTED} as number {version_of(entry)}", on=folder, cause=cause, hint=_HINT)


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
            raise SnapshotFailed(f"{_ATTEMPTED} as number {version_of(entry.id)}", on=folder, cause=cause, hint=_HINT)


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
        make_links_private(spool, entry)
    except SnapshotFailed as error:
        with opened_entry(spool, entry.id) as path:
            mark_torn(path, error.cause)
        spool.drop(entry.id)
        raise
    except FileNotFoundError:
        return  # stored in this moment


def make_links_private(spool: Spool, entry: Entry) -> None:
    """Put private copies in the places of an entry's links, wherever in its spool the entry is.

    Raises
    ------
    FileNotFoundError
        The entry is gone from there.
    SnapshotFailed
        A file is not what it was any more, or can't be copied. It is as it was.
    """
    with opened_entry(spool, entry.id) as path:
        for file in entry.snapshot.links:
            make_private(path, file.stored_in, inode=file.inode, size_bytes=file.size_bytes, mtime_ns=file.mtime_ns)


@contextmanager
def opened_entry(spool: Spool, entry: str) -> Iterator[str]:
    """Give a path to an entry's folder by its descriptor: a worker may move it meanwhile. There are links on Linux only.

    Raises
    ------
    FileNotFoundError
        The entry is gone from there.
    """
    while True:
        try:
            folder = os.open(spool.entry_folder(entry), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            if entry not in spool.waiting():
                raise
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)
