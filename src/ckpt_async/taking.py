"""Bringing a snapshot of a user's files into the spool, as a save with a number of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ckpt_async.disk.linking import LinkGuard
from ckpt_async.disk.scan import ScannedTree
from ckpt_async.disk.snapshot import Snapshot, changed_files, take_snapshot
from ckpt_async.ledger import Ledger
from ckpt_async.reference import CheckpointReference
from ckpt_async.spool.entry import Entry
from ckpt_async.spool.neighbours import is_of_child
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.spool.states import entry_id
from ckpt_async.spool.torn import keep_links
from ckpt_async.transfer.plan import SourceFile, tar_size_bytes
from ckpt_async.words.errors import CheckpointError, FilesChanged, InvalidArgument, SnapshotFailed
from ckpt_async.words.groups import is_group_number
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.names import check_name
from ckpt_async.words.records import STORAGE_FORMATS, CheckpointRecord, freeze_metadata

__all__ = ["SaveRequest", "Taking"]


@dataclass(frozen=True)
class SaveRequest:
    """What a user asks to be saved, checked, but for the files."""

    name: str
    metadata: dict[str, object]
    latest: bool
    storage_format: str
    group: bool

    @classmethod
    def checked(
        cls, name: str, metadata: dict[str, object] | None, *, latest: bool, storage_format: str, group: bool = False
    ) -> SaveRequest:
        """Check the arguments of a ``save()`` and copy those that could change. Raises InvalidArgument."""
        check_name(name)
        frozen = freeze_metadata(metadata)
        if storage_format not in STORAGE_FORMATS:
            raise InvalidArgument(
                "save a checkpoint",
                on=f"storage_format={storage_format!r}",
                cause="there is none of that name",
                hint="Use 'files' or 'tar'.",
            )
        if group and storage_format != "files":
            raise InvalidArgument(
                "save a checkpoint",
                on=f"group=True, storage_format={storage_format!r}",
                cause="the parts of a group can't be put together into one archive",
                hint="Use 'files'.",
            )
        return cls(name, frozen, latest, storage_format, group)


class Taking:
    """Takes the saves of one attempt. One at a time: the caller sees to that.

    Parameters
    ----------
    identity : TaskIdentity
        Whose they are.
    header : SpoolHeader
        Of the spool.
    spool : Spool
        That they enter.
    ledger : Ledger
        That they are entered in.
    link_guard : callable
        Returns who guards links at the moment, or None.
    """

    def __init__(
        self, identity: TaskIdentity, header: SpoolHeader, spool: Spool, ledger: Ledger, link_guard: Callable[[], LinkGuard | None]
    ) -> None:
        self._identity = identity
        self._header = header
        self._spool = spool
        self._ledger = ledger
        self._link_guard = link_guard
        #: Why a group save of this node could not be counted; empty where all were.
        self._not_counted = ""

    def check_outside(self, path: str) -> None:
        """A folder that holds the spool would be saved into itself, more of it each time. Raises InvalidArgument."""
        saved, spool = os.path.realpath(path), os.path.realpath(self._spool.folder)
        if os.path.commonpath([saved, spool]) == saved:
            raise InvalidArgument(
                "save a checkpoint",
                on=path,
                cause=f"the spool stands inside this folder ({spool})",
                hint="Save a folder of its own, or set spool_dir to a place outside of it.",
            )

    def group_number(self) -> int:
        """Take the number of a group save. Before anything that can fail on this node alone: the nodes count their calls.

        Raises
        ------
        InvalidArgument
            This is a child process that was not opened for a group save.
        SnapshotFailed
            The disk of the spool does not allow it, or did not at an earlier call: this node would be out of step with the others.
        """
        start, step = self._header.version_start, self._header.version_step
        if is_of_child(os.path.basename(self._spool.folder)):
            # It has got its number already, from the spool of the task.
            if is_group_number(start):
                return self._spool.next_version(start, step)
            raise InvalidArgument(
                "save a checkpoint",
                on="group=True",
                cause="this process was opened for a save by itself",
                hint="Open it with group=True.",
            )
        if self._not_counted:
            raise SnapshotFailed(
                "save a checkpoint",
                on="group=True",
                cause=f"an earlier one could not be counted ({self._not_counted}), so that what this node saves now would be put "
                "together with what the others have saved before",
                hint="Save without group, or let the step fail: the next attempt counts anew.",
            )
        try:
            with _spool_errors(self._spool.folder):
                return self._spool.next_group_version(start, step)
        except CheckpointError as error:
            self._not_counted = error.cause
            raise

    def take(
        self, tree: ScannedTree, request: SaveRequest, version: int | None = None, *, as_seen: bool = False
    ) -> CheckpointReference:
        """Bring a snapshot of the files into the spool. When this returns, it survives the death of every process.

        Parameters
        ----------
        version : int, optional
            The number that was taken for it.
        as_seen : bool
            Whether the files must still have the state that the scan saw. Otherwise one that has changed since is taken as it is.

        Raises
        ------
        FilesChanged
            They have not.
        SnapshotFailed
            The files, or the disk of the spool, don't allow it; nothing of the save remains.
        """
        with _spool_errors(self._spool.folder):
            if version is None:
                version = self._spool.next_version(self._header.version_start, self._header.version_step)
            try:
                return self._take(tree, request, version, as_seen=as_seen)
            except BaseException:
                self._ledger.cancel(entry_id(version))
                # What can't be deleted now, the next attempt deletes; the reason of the failure is more to the point.
                with suppress(OSError):
                    self._spool.discard(version)
                raise

    def _take(self, tree: ScannedTree, request: SaveRequest, version: int, *, as_seen: bool) -> CheckpointReference:
        folder = self._spool.stage(version)
        # A guard that is replaced from now on is another: what this one has granted is not its successor's.
        guard = self._link_guard()
        snapshot = take_snapshot(tree, folder, way=self._header.settings.snapshot, guard=guard)
        if as_seen:
            _check_as_seen(tree, snapshot)
        size_bytes = snapshot.size_bytes
        if request.storage_format == "tar":
            sources = [SourceFile(file.path, file.size_bytes, file.mode, file.mtime_ns, "", 0) for file in snapshot.files]
            size_bytes = tar_size_bytes(sources, snapshot.directories)
        record = CheckpointRecord.of_save(
            self._identity,
            name=request.name,
            version=version,
            size_bytes=size_bytes,
            metadata=request.metadata,
            storage_format=request.storage_format,
            store_url=self._header.address.url,
            latest=request.latest,
            num_nodes=self._header.num_nodes,
            node_index=self._header.node_index,
            group=request.group and self._header.num_nodes > 1,
        )
        entry = Entry(entry_id(version), self._identity, record, snapshot)
        reference = self._ledger.open(record, entry.id, snapshot.size_bytes, methods=snapshot.methods)
        self._spool.publish(entry)
        keep_links(self._spool, entry, guard)
        return reference


def _check_as_seen(tree: ScannedTree, snapshot: Snapshot) -> None:
    if changed := changed_files(tree, snapshot):
        raise FilesChanged("save the files", on=tree.root, cause=f"{changed[0]!r} was written to since it was looked at")


@contextmanager
def _spool_errors(folder: str) -> Iterator[None]:
    """Translate what the operating system says of the spool's disk."""
    try:
        yield
    except CheckpointError:
        raise  # Some are an OSError too.
    except OSError as error:
        raise SnapshotFailed(
            "write a save into the spool",
            on=error.filename or folder,
            cause=error.strerror or str(error),
            hint="Nothing of this save remains. Free disk space, or set spool_dir to another disk.",
        ) from error
