"""Where spools stand, and what earlier attempts of the same task have left on this machine."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from ckpt_async.spool.entry import Entry
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.torn import torn_error
from ckpt_async.words.errors import CheckpointError, SpoolDamaged
from ckpt_async.words.identity import TaskIdentity, json_hash
from ckpt_async.words.settings import StoreAddress

__all__ = ["LeftSave", "child_spool_folder", "left_saves", "older_attempts", "remove_dead_spool", "remove_spool", "spool_folder"]

_ATTEMPT_DIGITS = 4
_VERSION_DIGITS = 10


def spool_folder(scratch_root: str, address: StoreAddress, identity: TaskIdentity, node_index: int = 0) -> str:
    """Return where the spool of this attempt stands: ``<scratch_root>/<task>/<attempt>``.

    The same task finds the same folder again; tasks with one pathspec in different stores, and nodes of a gang, don't meet.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", f"{identity.flow}-{identity.run}-{identity.step}-{identity.task}")[:120]
    unique = json_hash([address.url, identity.pathspec, node_index])[:12]
    return os.path.join(scratch_root, f"{readable}-{unique}", f"{identity.attempt:0{_ATTEMPT_DIGITS}d}")


def child_spool_folder(folder: str, version: int) -> str:
    """Return where the spool of a child process stands that saves number `version` for the attempt whose spool is `folder`.

    Beside it: the next attempt finds what a killed child left as it finds what a killed attempt left. The names sort behind that of
    their own attempt and before that of the next one.
    """
    return f"{folder}{version:0{_VERSION_DIGITS}d}"


def older_attempts(folder: str) -> list[str]:
    """Return the spool folders of earlier attempts, and of their child processes, that still stand beside `folder`, oldest first.

    None for the spool of a child: it lives beside its task, whose spools are none of its business.
    """
    parent, own = os.path.split(folder)
    if len(own) > _ATTEMPT_DIGITS:
        return []
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    return [os.path.join(parent, name) for name in sorted(names) if name.isdecimal() and name < own]


@dataclass(frozen=True)
class LeftSave:
    """A save that lies in the spool of an earlier attempt."""

    folder: str
    entry: Entry


def left_saves(folder: str) -> tuple[list[LeftSave], list[CheckpointError]]:
    """Return what earlier attempts saved and the store may not have yet, newest first, and what of it can't be read, or is lost."""
    found: list[LeftSave] = []
    damaged: list[CheckpointError] = []
    for older in older_attempts(folder):
        spool = Spool(older)
        for name in spool.waiting():
            try:
                entry = spool.read(name)
                if (torn := torn_error(spool.entry_folder(name), name)) is not None:
                    damaged.append(torn)
                    continue
                found.append(LeftSave(older, entry))
            except FileNotFoundError:
                continue  # Stored in this moment by a worker that is still alive.
            except SpoolDamaged as error:
                damaged.append(error)
    found.sort(key=lambda left: left.entry.record.order, reverse=True)
    return found, damaged


def remove_dead_spool(folder: str) -> None:
    """Remove the spool of an earlier attempt that neither its task nor a worker has any more, where nothing is left in it."""
    spool = Spool(folder)
    try:
        if spool.task_lock.try_acquire() and spool.worker_lock.try_acquire():
            spool.remove()
    except FileNotFoundError:
        pass  # It is gone.
    finally:
        spool.task_lock.release()
        spool.worker_lock.release()


def remove_spool(spool: Spool) -> bool:
    """Remove a spool in which nothing waits, and the task's folder with the last of its spools; returns whether the spool is
    gone.
    """
    if not spool.remove():
        return False
    try:
        os.rmdir(os.path.dirname(spool.folder))
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    return True
