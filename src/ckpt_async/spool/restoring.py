"""Bringing a save back from the spool of an earlier attempt."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckpt_async.disk.restore import RestoreWay, restore_snapshot
from ckpt_async.spool.kept import BOOT_FILE, boot_id, kept_folder, read_kept
from ckpt_async.spool.neighbours import LeftSave, older_attempts
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.torn import torn_error
from ckpt_async.words.errors import SpoolDamaged

__all__ = ["kept_saves", "restore_kept", "restore_left"]


def restore_left(left: LeftSave, target: str, way: RestoreWay) -> None:
    """Bring back the files of a save that waits for its upload; see `restore_snapshot`.

    Raises
    ------
    FileNotFoundError
        It is gone from the spool: stored, or moved on in this moment.
    SpoolDamaged
        It is not what was saved. A file that an entry lacks, which is still there, is damage.
    """
    spool = Spool(left.folder)
    try:
        restore_snapshot(left.entry.snapshot, spool.entry_folder(left.entry.id), target, way)
    except FileNotFoundError as error:
        if not _lacks(spool, left.entry.id, os.path.basename(error.filename or "")):
            raise
        raise SpoolDamaged("read a saved checkpoint", on=error.filename, cause="the file is missing") from error


def _lacks(spool: Spool, entry: str, name: str) -> bool:
    """Return whether an entry that is still in the spool lacks one of its files: then it was neither moved nor stored."""
    try:
        folder = os.open(spool.entry_folder(entry), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # By the descriptor, which goes along with the folder wherever a transition moves it.
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return False
    except FileNotFoundError:
        # Files are deleted in the trash alone, from where no entry comes back.
        return spool.holds(entry)
    finally:
        os.close(folder)


def kept_saves(folder: str) -> Sequence[LeftSave]:
    """Return what earlier attempts have stored and kept, newest first.

    Parameters
    ----------
    folder : str
        The spool of this attempt.
    """
    found = [LeftSave(older, entry) for older in older_attempts(folder) for entry in read_kept(Spool(older))]
    return sorted(found, key=lambda kept: kept.entry.record.order, reverse=True)


def restore_kept(kept: LeftSave, target: str) -> None:
    """Bring back the files of a save that the store has too: they are moved, and what is left of the entry is of no use.

    Raises
    ------
    FileNotFoundError
        It is gone, or something of it.
    SpoolDamaged
        It is not what was saved; or the machine was started anew since, and what the disk did not hold then is lost, while sizes
        and times may look right.
    """
    folder = kept_folder(Spool(kept.folder), kept.entry.id)
    if (torn := torn_error(folder, kept.entry.id)) is not None:
        raise SpoolDamaged("read a kept checkpoint", on=folder, cause=torn.cause) from torn
    with open(os.path.join(folder, BOOT_FILE), "rb") as file:
        if file.read() != boot_id():
            raise SpoolDamaged("read a kept checkpoint", on=folder, cause="it was kept before the machine was started anew")
    restore_snapshot(kept.entry.snapshot, folder, target, RestoreWay.MOVE)
