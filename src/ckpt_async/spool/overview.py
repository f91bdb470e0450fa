"""What waits on this machine: every spool under a folder, whose it is, and whether its task lives. Only looks; takes no lock."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ckpt_async.spool.neighbours import attempt_of, is_of_child
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.torn import torn_error
from ckpt_async.words.errors import SpoolDamaged
from ckpt_async.words.records import CheckpointRecord

__all__ = ["SpoolState", "WaitingSave", "look_at_spools"]


@dataclass(frozen=True)
class WaitingSave:
    """A save that is not in the store yet.

    Attributes
    ----------
    entry : str
        Its name in the spool.
    record : CheckpointRecord
        What will make it visible.
    size_bytes : int
        Of its files.
    lost : str
        Why nobody can store it any more; empty where that is not so.
    """

    entry: str
    record: CheckpointRecord
    size_bytes: int
    lost: str = ""


@dataclass(frozen=True)
class SpoolState:
    """A spool as it was found.

    Attributes
    ----------
    folder : str
        Where it stands.
    task : str
        The pathspec of the task; where nothing waits, the name of the task's folder, made of it.
    attempt : int
        Of the task.
    of_child : bool
        Whether it is that of a child process.
    store_url : str
        Where the saves go; empty where that can't be read.
    saves : tuple of WaitingSave
        Oldest first.
    alive : bool
        Whether the task, or the child process, lives.
    uploading : bool
        Whether an uploader is at it.
    problems : tuple of str
        What can't be read, a sentence each.
    """

    folder: str
    task: str
    attempt: int
    of_child: bool
    store_url: str
    saves: tuple[WaitingSave, ...]
    alive: bool
    uploading: bool
    problems: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all saves that wait."""
        return sum(save.size_bytes for save in self.saves)


def look_at_spools(root: str) -> list[SpoolState]:
    """Return the spools of this user under a folder, by task and attempt; none where there is no such folder.

    Parameters
    ----------
    root : str
        As `ckpt_async.open_checkpointer` takes it as ``scratch_root``.

    Raises
    ------
    SpoolDamaged
        The folder can't be read, or belongs to another user.
    """
    try:
        if os.stat(root).st_uid != os.geteuid():
            raise SpoolDamaged("look for spools", on=root, cause="the folder belongs to another user")
        tasks = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpoolDamaged("look for spools", on=root, cause=error.strerror or str(error)) from error
    found = []
    for task in tasks:
        for attempt in _attempts(os.path.join(root, task)):
            state = _look(os.path.join(root, task, attempt))
            if state is not None:
                found.append(state)
    return found


def _attempts(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.isdecimal() and len(name) >= 4)
    except (FileNotFoundError, NotADirectoryError):
        return []  # Gone meanwhile, or nothing of ours.


def _look(folder: str) -> SpoolState | None:
    """Return the state of a spool; None where it has gone meanwhile."""
    spool = Spool(folder)
    saves, problems = [], []
    try:
        alive, uploading = spool.task_lock.is_held(), spool.worker_lock.is_held()
        for name in spool.waiting():
            try:
                entry = spool.read(name)
                torn = torn_error(spool.entry_folder(name), name)
                saves.append(WaitingSave(name, entry.record, entry.snapshot.size_bytes, "" if torn is None else torn.cause))
            except FileNotFoundError:
                continue  # Stored in this moment.
            except SpoolDamaged as damage:
                problems.append(str(damage))
        store_url = spool.header().address.url
    except SpoolDamaged as damage:
        if not os.path.isdir(folder):
            return None
        problems.append(str(damage))
        store_url = ""
    except OSError as error:
        return SpoolState(folder, _task_of(folder), 0, False, "", (), False, False, (f"{folder}: {error.strerror or error}",))
    name = os.path.basename(folder)
    task = saves[0].record.pathspec if saves else _task_of(folder)
    return SpoolState(
        folder, task, attempt_of(name), is_of_child(name), store_url, tuple(saves), alive, uploading, tuple(problems)
    )


def _task_of(folder: str) -> str:
    """Return the readable part of the name of the task's folder, which is made of the pathspec."""
    return os.path.basename(os.path.dirname(folder)).rpartition("-")[0]
