"""The spool of one attempt of a task: the queue between ``save()`` and the worker, made of folders and renames.

::

    <spool>/
      spool.json        where its checkpoints go: what another process needs to upload them
      task.lock         held by the task, as long as it lives
      worker.lock       held by the one worker
      counter           the next save number
      loaded            what the task has loaded; see `ckpt_async.spool.loaded`
      staging/ID/       being taken; deleted by whoever opens the spool after a crash
      ready/ID/         saved
      active/ID/        its upload has begun
      kept/ID/          in the store, and kept for a next attempt; see `ckpt_async.spool.kept`
      trash/ID/         being deleted
      abandoned/        notes of uploads that were given up after they had begun
      private/          copies that a guard is making of linked files
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_async.disk import durable
from ckpt_async.spool.abandoned import abandoned_logs, keep_notes
from ckpt_async.spool.ownership import FileLock
from ckpt_async.spool.part_log import PART_LOG_FILE
from ckpt_async.spool.states import ENTRY_FILE, EntryState, entry_id
from ckpt_async.words.errors import InvalidArgument, SpoolDamaged
from ckpt_async.words.groups import group_after
from ckpt_async.words.settings import Settings, StoreAddress, settings_from_dict

if TYPE_CHECKING:
    from ckpt_async.spool.entry import Entry

__all__ = ["OWN_A_SPOOL", "Spool", "SpoolHeader"]

#: What a worker attempts that takes the lock.
OWN_A_SPOOL = "upload what is saved in a spool"

HEADER_FILE = "spool.json"
COUNTER_FILE = "counter"

_HELD = (EntryState.READY, EntryState.ACTIVE, EntryState.READY)

_READ_TRIES = 3

_ENTRY_ID = re.compile(r"[0-9]{10,}")


@dataclass(frozen=True)
class SpoolHeader:
    """What a process that finds the spool needs to know. Holds no credentials.

    Attributes
    ----------
    address : StoreAddress
        Where the checkpoints go.
    settings : Settings
        Of the task that saved them.
    version_start, version_step : int
        Save numbers are ``start, start + step, ...``: nodes that share an identity never take the same one.
    node_index : int
        Of the node of the gang that shares the identity.
    """

    address: StoreAddress
    settings: Settings
    version_start: int = 0
    version_step: int = 1
    node_index: int = 0

    @property
    def num_nodes(self) -> int:
        """Of the gang: each node's numbers go in steps of it."""
        return self.version_step

    @property
    def first_version(self) -> int | None:
        """The number of the attempt's first save; None in the spool of a child process whose task had saved before."""
        return self.version_start if self.version_start < self.version_step else None

    def to_json(self) -> bytes:
        """Return the text of the header file."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> SpoolHeader:
        """Read a header file. Raises SpoolDamaged where it is none."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(
                StoreAddress(**data["address"]),
                settings_from_dict(data["settings"]),
                int(data["version_start"]),
                int(data["version_step"]),
                int(data.get("node_index", 0)),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolDamaged("read a spool's header", on=source, cause=f"{type(error).__name__}: {error}") from error


class Spool:
    """One spool folder. Its methods may be called from several threads and processes: every transition is one rename.

    Parameters
    ----------
    folder : str
        Made by `create`, or by an earlier process.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        #: Whether each transition is on the disk when its method returns: with ``durability="machine"``.
        self.syncs_moves = False
        self.task_lock = FileLock(os.path.join(folder, "task.lock"))
        self.worker_lock = FileLock(os.path.join(folder, "worker.lock"))

    @classmethod
    def create(cls, folder: str, header: SpoolHeader) -> Spool:
        """Make the folders, private to the user, and the header. A spool that is there already is opened."""
        _make_folder(folder)
        for state in (*EntryState.ALWAYS, *((EntryState.KEPT,) if header.settings.keep_local else ())):
            durable.make_private_folder(os.path.join(folder, state))
        path = os.path.join(folder, HEADER_FILE)
        if not os.path.exists(path):
            durable.write_file(path, header.to_json())
        return cls(folder).obeying(header)

    def obeying(self, header: SpoolHeader) -> Spool:
        """Return this spool, with its transitions as durable as the header's settings want them."""
        self.syncs_moves = header.settings.durability == "machine"
        return self

    @property
    def private_folder(self) -> str:
        """Where a guard makes its copies: in no entry, which could be deleted meanwhile."""
        return os.path.join(self.folder, "private")

    def header(self) -> SpoolHeader:
        """Read the header. Raises SpoolDamaged where there is none, or none that can be read."""
        path = os.path.join(self.folder, HEADER_FILE)
        try:
            with open(path, "rb") as file:
                return SpoolHeader.from_json(file.read(), source=path)
        except FileNotFoundError:
            raise SpoolDamaged("read a spool's header", on=path, cause="the file is missing") from None

    # The side of save()

    def next_version(self, start: int = 0, step: int = 1) -> int:
        """Take the next save number; no two callers ever get the same one. Raises SpoolDamaged where the counter can't be read."""
        return self._take_number(start, lambda version: (version, version + step))

    def next_group_version(self, start: int, step: int) -> int:
        """Take the number of the next group save, which each of the `step` nodes gets at its so many-th; else as `next_version`."""

        def numbers(version: int) -> tuple[int, int]:
            # Of those behind it, this node's own come round with its place again.
            return (group := group_after(version)), group + step + start

        return self._take_number(start, numbers)

    def _take_number(self, start: int, numbers: Callable[[int], tuple[int, int]]) -> int:
        """Take a number: from the one to come, `numbers` makes that which is taken and the one to come after it."""
        descriptor = os.open(os.path.join(self.folder, COUNTER_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # flock, unlike the record lock of FileLock, also holds between threads, each having a descriptor of its own.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            version, to_come = numbers(self._number(os.pread(descriptor, 32, 0), start))
            if os.pwrite(descriptor, b"%020d" % to_come, 0) < 20:
                # The digits that changed are the last ones: the number before stands still.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.join(self.folder, COUNTER_FILE))
            return version
        finally:
            os.close(descriptor)

    def version_to_come(self, start: int = 0) -> int:
        """Return what `next_version` would return now; whoever calls that first gets it. Raises as that does."""
        try:
            with open(os.path.join(self.folder, COUNTER_FILE), "rb") as file:
                return self._number(file.read(32), start)
        except FileNotFoundError:
            return start

    def _number(self, text: bytes, start: int) -> int:
        try:
            # All zeros: a first number that a full disk cut off, so nobody has got it.
            return int(text) if text.strip(b"0") else start
        except ValueError as error:
            raise SpoolDamaged("read a save number", on=os.path.join(self.folder, COUNTER_FILE), cause=str(error)) from error

    def stage(self, version: int) -> str:
        """Make the folder for a snapshot and return its path; `publish` or `discard` ends it."""
        folder = self._path(EntryState.STAGING, entry_id(version))
        os.mkdir(folder, 0o700)
        return folder

    def discard(self, version: int) -> None:
        """Delete what `stage` made; nothing of the save remains."""
        durable.remove_tree(self._path(EntryState.STAGING, entry_id(version)))

    def publish(self, entry: Entry) -> None:
        """Turn a staged snapshot into a saved one. When this returns, the save survives the death of every process.

        Nothing is synced. The files of the snapshot are not either, so after a power failure a description that is there would only
        promise what the disk does not hold; and four syncs cost 5 ms on an idle disk, 30 and more on one that is writing back
        a checkpoint, many times the rest of a save that is linked.
        """
        staged = self._path(EntryState.STAGING, entry.id)
        durable.write_file(os.path.join(staged, ENTRY_FILE), entry.to_json(), sync=False)
        durable.rename(staged, self._path(EntryState.READY, entry.id), sync=False)

    def drop(self, entry: str) -> bool:
        """Give up a save whose upload has not begun; returns False where it has, or where it is gone."""
        if not self._move(entry, EntryState.READY, EntryState.TRASH):
            return False
        self._delete_trash(entry)
        return True

    # The side of the worker

    def waiting(self) -> list[str]:
        """Return the ids of all entries that are not in the store, oldest first."""
        # Other programs leave files of their own (.DS_Store, .nfs...): they are no entries.
        # Looked at twice: an entry may be put back between the two looks.
        names = {name for state in _HELD for name in self._names(state)}
        return sorted(name for name in names if _ENTRY_ID.fullmatch(name))

    def claim(self, entry: str) -> bool:
        """Begin (or take up again) an entry's upload; returns False where it is gone."""
        return self._move(entry, EntryState.READY, EntryState.ACTIVE) or os.path.isdir(self._path(EntryState.ACTIVE, entry))

    def unclaim(self, entry: str) -> None:
        """Put an entry back whose upload can't go on as things are; its notes stay with it."""
        self._move(entry, EntryState.ACTIVE, EntryState.READY)

    def finish(self, entry: str) -> None:
        """Remove an entry that is in the store."""
        if self._move(entry, EntryState.ACTIVE, EntryState.TRASH):
            self._delete_trash(entry, stored=True)

    def _delete_trash(self, entry: str, *, stored: bool = False) -> None:
        # It has left the spool with the rename, whatever becomes of its files: `clean`, or the end of the spool, deletes the rest.
        with contextlib.suppress(OSError):
            if not stored:
                keep_notes(self.folder, self._path(EntryState.TRASH, entry))
            durable.remove_tree(self._path(EntryState.TRASH, entry))

    def clean(self) -> None:
        """Delete what a crash left half made or half deleted. Call it only while no task saves into the spool."""
        for name in self._names(EntryState.STAGING):
            durable.remove_tree(self._path(EntryState.STAGING, name))
        self.clean_trash()

    def clean_trash(self) -> None:
        """Delete what a crash left half deleted."""
        for name in self._names(EntryState.TRASH):
            keep_notes(self.folder, self._path(EntryState.TRASH, name))
            durable.remove_tree(self._path(EntryState.TRASH, name))

    # Both sides

    def holds(self, entry: str) -> bool:
        """Return whether an entry is being taken or waits for its upload. Exact where no worker runs."""
        return any(os.path.isdir(self._path(state, entry)) for state in (EntryState.STAGING, EntryState.READY, EntryState.ACTIVE))

    def holds_anything(self) -> bool:
        """Return whether there is more than the spool itself: a save, or what is left of one, in whatever state."""
        states = (EntryState.STAGING, *_HELD, EntryState.TRASH)
        return any(self._names(state) for state in states) or bool(abandoned_logs(self.folder))

    def entry_folder(self, entry: str) -> str:
        """Return the folder in which the entry is now. Raises FileNotFoundError where it is gone."""
        for state in _HELD:
            folder = self._path(state, entry)
            if os.path.isdir(folder):
                return folder
        raise FileNotFoundError(self._path(EntryState.READY, entry))

    def sync_place(self) -> None:
        """Return once the folders around the spool, as far as they can be opened, are on the disk: some may have been made for
        it.
        """
        folder = self.folder
        while True:
            try:
                durable.sync_folder(folder)
            except PermissionError:
                return  # Not ours: so it was there before.
            parent = os.path.dirname(folder)
            if parent == folder:
                return
            folder = parent

    def sync_entry(self, entry: str) -> None:
        """Return once an entry is on the disk: its files, and its place, which `publish` does not sync.

        Raises
        ------
        FileNotFoundError
            The entry is gone: stored, or dropped.
        OSError
            The disk refuses.
        """
        while True:
            folder = self.entry_folder(entry)
            try:
                for name in os.listdir(folder):
                    # The notes of an upload are of no account: losing them costs time.
                    if name != PART_LOG_FILE:
                        durable.sync_file(os.path.join(folder, name))
                durable.sync_folder(folder)
                # A worker that moves it on meanwhile syncs that move itself.
                durable.sync_folder(os.path.dirname(folder))
                return durable.sync_folder(os.path.join(self.folder, EntryState.STAGING))
            except FileNotFoundError:
                continue  # A transition has moved the folder away: look again.

    def read(self, entry: str) -> Entry:
        """Read an entry's description.

        Raises
        ------
        FileNotFoundError
            The entry is gone: stored, or dropped.
        SpoolDamaged
            The description can't be read.
        """
        from ckpt_async.spool.entry import Entry  # a task that never saves has none to read

        trouble: OSError | None = None
        for _ in range(_READ_TRIES):
            # A transition between looking and reading moves the folder away: look again. And what a disk refuses once (a volume in
            # the network) must not make a retry pass its newest save by.
            path = os.path.join(self.entry_folder(entry), ENTRY_FILE)
            try:
                with open(path, "rb") as file:
                    return Entry.from_json(entry, file.read(), source=path)
            except FileNotFoundError:
                continue
            except OSError as error:
                trouble = error
        if trouble is not None:
            raise SpoolDamaged("read a saved checkpoint", on=path, cause=trouble.strerror or str(trouble)) from trouble
        if os.path.isdir(os.path.dirname(path)):
            raise SpoolDamaged("read a saved checkpoint", on=path, cause="the file is missing")
        raise FileNotFoundError(path)

    def remove(self) -> bool:
        """Remove the whole spool where nothing in it waits for an upload, or is kept; returns whether it is gone."""
        if self.waiting() or self._names(EntryState.STAGING) or self._names(EntryState.KEPT):
            return False
        self.task_lock.release()
        self.worker_lock.release()
        durable.remove_tree(self.folder)
        return True

    def _path(self, state: str, entry: str) -> str:
        return os.path.join(self.folder, state, entry)

    def _names(self, state: str) -> list[str]:
        try:
            return os.listdir(os.path.join(self.folder, state))
        except FileNotFoundError:
            return []

    def _move(self, entry: str, source: str, target: str) -> bool:
        try:
            durable.rename(self._path(source, entry), self._path(target, entry), sync=self.syncs_moves)
        except FileNotFoundError:
            return False
        return True


def _make_folder(folder: str) -> None:
    """Make the spool's folder although the worker of an earlier attempt may remove the task's, empty in its eyes, meanwhile."""
    for last_try in (False, False, True):
        try:
            return durable.make_private_folder(folder)
        except InvalidArgument as error:
            if last_try or not isinstance(error.__cause__, FileNotFoundError):
                raise
    return None
