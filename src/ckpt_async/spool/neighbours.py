"""Where spools stand, and what earlier attempts of the same task, and dead tasks of its scope, have left on this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import CheckpointError, SpoolDamaged
from ckpt_async.words.identity import TaskIdentity, json_hash
from ckpt_async.words.names import readable_folder
from ckpt_async.words.settings import StoreAddress

if TYPE_CHECKING:
    from ckpt_async.spool.entry import Entry
    from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "LeftSave",
    "attempt_of",
    "child_spool_folder",
    "child_spools",
    "dead_children",
    "is_of_child",
    "left_in_scope",
    "left_saves",
    "older_attempts",
    "remove_dead_spool",
    "remove_spool",
    "waits_beside",
    "spool_folder",
]

_ATTEMPT_DIGITS = 4
_VERSION_DIGITS = 10


def spool_folder(scratch_root: str, address: StoreAddress, identity: TaskIdentity, node_index: int = 0) -> str:
    """Return where the spool of this attempt stands: ``<scratch_root>/<task>/<attempt>``.

    The same task finds the same folder again; tasks with one pathspec in different stores, and nodes of a gang, don't meet.
    """
    readable = readable_folder(identity.pathspec)
    unique = json_hash([address.url, identity.pathspec, node_index])[:12]
    return os.path.join(scratch_root, f"{readable}-{unique}", f"{identity.attempt:0{_ATTEMPT_DIGITS}d}")


def child_spool_folder(folder: str, version: int) -> str:
    """Return where the spool of a child process stands that saves number `version` for the attempt whose spool is `folder`.

    Beside it: the next attempt finds what a killed child left as it finds what a killed attempt left. The names sort behind that of
    their own attempt and before that of the next one.
    """
    return f"{folder}{version:0{_VERSION_DIGITS}d}"


def attempt_of(spool_name: str) -> int:
    """Return the attempt whose spool has this name. That of a child process has more digits behind those of its attempt."""
    return int(spool_name[:_ATTEMPT_DIGITS])


def is_of_child(spool_name: str) -> bool:
    """Return whether the spool of this name is that of a child process."""
    return len(spool_name) > _ATTEMPT_DIGITS


def child_spools(folder: str) -> list[str]:
    """Return the spool folders of the child processes of the attempt whose spool is `folder`, oldest first."""
    parent, own = os.path.split(folder)
    if is_of_child(own):
        return []
    return [found for found in _attempts(parent) if os.path.basename(found).startswith(own) and found != folder]


def dead_children(folder: str) -> list[str]:
    """Return the spools of child processes that have ended and left something in them.

    One with nothing in it may be that of a child that is about to take its lock.
    """
    return [child for child in child_spools(folder) if Spool(child).holds_anything() and not Spool(child).task_lock.is_held()]


def older_attempts(folder: str) -> list[str]:
    """Return the spool folders of earlier attempts, and of their child processes, that still stand beside `folder`, oldest first.

    None for the spool of a child: it lives beside its task, whose spools are none of its business.
    """
    parent, own = os.path.split(folder)
    if is_of_child(own):
        return []
    return [older for older in _attempts(parent) if os.path.basename(older) < own]


def waits_beside(folder: str, label: str) -> bool:
    """Return whether an entry is being taken or waits for its upload: ``ENTRY`` in this spool, ``SPOOL/ENTRY`` in one beside it."""
    spool_name, _, entry = label.rpartition("/")
    spool = Spool(os.path.join(os.path.dirname(folder), spool_name) if spool_name else folder)
    return spool.holds(entry) or entry in spool.waiting()


def _attempts(task_folder: str) -> list[str]:
    """Return the spool folders of a task, oldest first."""
    try:
        names = os.listdir(task_folder)
    except FileNotFoundError:
        return []
    return [os.path.join(task_folder, name) for name in sorted(names) if name.isdecimal()]


@dataclass(frozen=True)
class LeftSave:
    """A save that lies in the spool of an earlier attempt, or of another task."""

    folder: str
    entry: Entry

    @property
    def record(self) -> CheckpointRecord:
        """What will make it visible in the store."""
        return self.entry.record


def left_saves(folder: str) -> tuple[list[LeftSave], list[CheckpointError]]:
    """Return what earlier attempts saved and the store may not have yet, newest first, and what of it can't be read, or is lost."""
    found: list[LeftSave] = []
    damaged: list[CheckpointError] = []
    for older in older_attempts(folder):
        saves, damages = _saves_in(older, lambda _: True)
        found += saves
        damaged += damages
    found.sort(key=lambda left: left.record.order, reverse=True)
    return found, damaged


def is_last_of_attempt(left: LeftSave) -> bool:
    """Return whether nothing was saved after it in its attempt, by any process: no later save number was taken.

    False also where that is not known: of a child process's save, whose spool counts nothing but that one, and of the nodes of a
    gang, whose other members may have their spools elsewhere.

    Raises
    ------
    FileNotFoundError
        The spool is gone.
    SpoolDamaged
        It can't be read.
    """
    if is_of_child(os.path.basename(left.folder)):
        return False
    spool = Spool(left.folder)
    header = spool.header()
    return header.version_step == 1 and spool.version_to_come(header.version_start) == left.record.version_id + 1


def _saves_in(folder: str, wanted: Callable[[Entry], bool]) -> tuple[list[LeftSave], list[CheckpointError]]:
    from ckpt_async.spool.torn import torn_error  # what a first attempt has no use for is not imported

    spool = Spool(folder)
    found: list[LeftSave] = []
    damaged: list[CheckpointError] = []
    for name in spool.waiting():
        try:
            entry = spool.read(name)
            if not wanted(entry):
                continue
            if (torn := torn_error(spool.entry_folder(name), name)) is not None:
                damaged.append(torn)
                continue
            found.append(LeftSave(folder, entry))
        except FileNotFoundError:
            continue  # Stored in this moment by a worker that is still alive.
        except SpoolDamaged as error:
            damaged.append(error)
    return found, damaged


def left_in_scope(folder: str, url: str, identity: TaskIdentity) -> tuple[list[LeftSave], list[CheckpointError]]:
    """Return what dead tasks of the same scope saved and the store may not have yet, and what can't be read, or is lost.

    A task of which any attempt is alive is left out: it sees to its own. So is what belongs to another user.

    Parameters
    ----------
    folder : str
        The spool of the task that asks; the others stand beside its task's folder.
    url : str
        Of the store that counts.
    identity : TaskIdentity
        Of the task that asks. Its own saves are left out: see `left_saves`.

    Returns
    -------
    list of LeftSave
        Newest first, as `supersedes` has it between tasks and the save number within one.
    list of CheckpointError
        Damage.
    """
    root, own = os.path.split(os.path.dirname(folder))
    found: list[LeftSave] = []
    damaged: list[CheckpointError] = []
    prefix = readable_folder(f"{identity.flow}/")
    for name in sorted(os.listdir(root)):
        task_folder = os.path.join(root, name)
        if name == own or not name.startswith(prefix):
            continue
        try:
            if os.lstat(task_folder).st_uid == os.geteuid():
                saves, damages = _left_by(task_folder, url, identity)
                found += saves
                damaged += damages
        except FileNotFoundError:
            continue  # Its own worker has emptied and removed it.
        except OSError as error:
            cause = error.strerror or str(error)
            damaged.append(SpoolDamaged("look for what another task left", on=error.filename or task_folder, cause=cause))
    newest: dict[str, int] = {}
    for left in found:
        newest[left.record.pathspec] = max(newest.get(left.record.pathspec, 0), left.record.saved_at_unix_ns)
    found.sort(key=lambda left: (newest[left.record.pathspec], left.record.pathspec, *left.record.order), reverse=True)
    return found, damaged


def _left_by(task_folder: str, url: str, identity: TaskIdentity) -> tuple[list[LeftSave], list[CheckpointError]]:
    """Return what one other task left; nothing where it is alive, or is none of ours."""
    from ckpt_async.words import keys

    scope = keys.scope_latest_key(identity)

    def wanted(entry: Entry) -> bool:
        return keys.scope_latest_key(entry.identity) == scope and entry.identity.pathspec != identity.pathspec

    found: list[LeftSave] = []
    damaged: list[CheckpointError] = []
    attempts = _attempts(task_folder)
    for attempt in attempts:
        spool = Spool(attempt)
        if not spool.waiting():
            continue
        try:
            if spool.header().address.url != url:
                continue
        except SpoolDamaged as error:
            if spool.waiting():  # Else its own worker has emptied and removed it in this moment.
                damaged.append(error)
            continue
        saves, damages = _saves_in(attempt, wanted)
        found += saves
        damaged += damages
    if not (found or damaged) or any(Spool(attempt).task_lock.is_held() for attempt in attempts):
        return [], []
    return found, damaged


def remove_dead_spool(folder: str) -> None:
    """Remove the spool of an earlier attempt that neither its task nor a worker has any more, where nothing is left in it."""
    spool = Spool(folder)
    try:
        if not spool.task_lock.is_held() and spool.worker_lock.try_acquire():
            spool.remove()
    except FileNotFoundError:
        pass  # It is gone.
    finally:
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
