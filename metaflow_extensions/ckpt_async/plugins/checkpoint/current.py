"""`current.checkpoint`: what a step's code sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from .apart import run_apart
from .arguments import read_attempt, read_name_filter, read_path, read_timeout
from .directory import empty_directory, remove_directory
from .references import list_of_task, load_in_place_of, read_reference

if TYPE_CHECKING:
    from ckpt_async import Checkpointer, CheckpointRecord, CheckpointReference, Pending, Source, Stats, Watcher

__all__ = ["CheckpointInfo", "CurrentCheckpoint"]

DEFAULT_NAME = "mfchckpt"

#: What `list` returns; inside the class its name means the method.
Records = list[dict[str, Any]]


class CheckpointInfo(Mapping[str, Any]):
    """A checkpoint's record, its fields as attributes and as items of a mapping: ``info.attempt``, ``info["attempt"]``.

    Attributes
    ----------
    pathspec : str
        The task that saved it.
    key : str
        The reference by text.
    attempt : int
        Of the task that saved it.
    name : str
        As given to ``save()``.
    version_id : int
        The save number within the attempt, from 0.
    created_on : str
        When it was saved: ISO, local time.
    metadata : dict
        As given to ``save()``.
    size : int
        In bytes.
    url : str
        The full address of the data.
    storage_format : str
        ``"files"`` or ``"tar"``.
    """

    def __init__(self, record: CheckpointRecord) -> None:
        self._fields = record.to_dict()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._fields:
            return self._fields[name]
        raise AttributeError(f"a checkpoint has no {name!r}; it has: {', '.join(self._fields)}")

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._fields]

    def __repr__(self) -> str:
        return f"CheckpointInfo({self._fields!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a plain dict."""
        return dict(self._fields)


class CurrentCheckpoint:
    """Saves, lists and loads the checkpoints of the running task.

    Parameters
    ----------
    checkpointer : Checkpointer
        Of this attempt.
    directory : str
        An existing folder; holds the files of `loaded`.
    loaded : CheckpointRecord or None
        What was loaded into the folder before the step began.
    passed_over : set of str
        Gets the keys of what is saved with ``latest=False``.
    deleted : set of str
        Gets the keys of what is deleted.
    watcher : Watcher, optional
        Of the directory, where it is watched.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        directory: str,
        loaded: CheckpointRecord | None,
        passed_over: set[str],
        deleted: set[str],
        watcher: Watcher | None = None,
    ) -> None:
        self._checkpointer = checkpointer
        self._passed_over = passed_over
        self._deleted = deleted
        self._directory = directory
        self._watcher = watcher
        self._info = None if loaded is None else CheckpointInfo(loaded)

    @property
    def directory(self) -> str:
        """The checkpoint directory: where a loaded checkpoint's files are, and what ``save()`` saves. Removed after the step."""
        return self._directory

    def refresh_directory(self) -> None:
        """Empty the checkpoint directory; it is made anew where it was removed. What was saved is not touched.

        Raises
        ------
        InvalidArgument
            Something in it can't be removed, or it can't be made.
        """
        empty_directory(self._directory)

    def cleanup(self) -> None:
        """Remove the checkpoint directory before the step ends, which does it by itself. What was saved is not touched.

        Raises
        ------
        InvalidArgument
            Something in it can't be removed.
        """
        remove_directory(self._directory)

    @property
    def is_loaded(self) -> bool:
        """Whether a checkpoint was loaded before the step began."""
        return self._info is not None

    @property
    def info(self) -> CheckpointInfo | None:
        """The checkpoint that was loaded before the step began; None where none was."""
        return self._info

    @property
    def task_identifier(self) -> str:
        """12 hexadecimal characters that are the same for the same task of another run."""
        return self._checkpointer.identity.task_identifier

    @property
    def pending(self) -> Pending:
        """What is saved and not yet in the datastore: ``.saves``, ``.size_bytes``, and ``.lag_s``, the age of the oldest of it."""
        return self._checkpointer.pending

    @property
    def stats(self) -> Stats:
        """What this attempt has done so far: ``saves``, ``committed``, ``incomplete``, ``dropped``, ``failed``, ``deleted``
        (counts), ``saved_bytes``, ``sent_bytes``, ``copied_bytes``, ``blocked_s``, ``waited_s``, ``upload_s`` (seconds).
        """
        return self._checkpointer.stats

    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        name: str = DEFAULT_NAME,
        metadata: dict[str, Any] | None = None,
        latest: bool = True,
        storage_format: str = "files",
        group: bool = False,
    ) -> CheckpointReference:
        """Save a checkpoint.

        The stored bytes are those on disk at the call, whatever is done to the files afterwards. With ``async_upload=True`` this
        returns as soon as they are safe on local disk; without it, once they are in the datastore.

        Parameters
        ----------
        path : str or path, optional
            A folder or a file. Default: the checkpoint directory.
        name : str, default "mfchckpt"
            Of the checkpoint.
        metadata : dict, optional
            Kept with it; copied at the call. What JSON can't hold becomes text.
        latest : bool, default True
            Whether a later attempt loads this checkpoint, unless a newer one is saved.
        storage_format : str, default "files"
            ``"files"``: one object for each file; ``"tar"``: one archive.
        group : bool, default False
            In a ``@parallel`` step: whether this is this node's part of one checkpoint that all nodes save together. It can be
            listed and loaded once all parts are in the datastore. Every node makes its group saves in the same order, with the
            same names.

        Returns
        -------
        CheckpointReference
            A dict, the checkpoint's record, that also has ``.wait(timeout=None)``, ``.done()`` and ``.status``. In an artifact it
            is stored as a plain dict.

        Raises
        ------
        InvalidArgument, SnapshotFailed, SaveRefused
            Nothing was saved.
        StoreError
            An earlier save met a failure that will not pass (no such bucket, access denied).
        """
        target = self._directory if path is None else path
        reference = run_apart(
            lambda: self._checkpointer.save(
                target, name=name, metadata=metadata, latest=latest, storage_format=storage_format, group=group
            )
        )
        if not latest:
            self._passed_over.add(reference["key"])
        return reference

    def list(
        self,
        name: str | None = None,
        task: Any = None,
        attempt: int | str | None = None,
        full_namespace: bool = False,
    ) -> Records:
        """List checkpoints that are in the datastore, newest first.

        Parameters
        ----------
        name : str, optional
            Only those of that name.
        task : metaflow.Task or str, optional
            Another task, also by its pathspec; its latest attempt, unless `attempt` names one. Default: this task, all attempts.
        attempt : int, optional
            Only those of that attempt.
        full_namespace : bool, default False
            Those of all runs that this task could resume from with ``load_policy="eager"``.

        Returns
        -------
        list of dict
            The records, as ``save()`` returns them.

        Raises
        ------
        InvalidArgument
            An argument is not what it should be.
        StoreError, CheckpointDamaged
            The store can't be asked, or a record in it can't be read.
        """
        name = read_name_filter(name)
        if task is not None:
            return list_of_task(task, name=name, attempt=attempt)
        number = read_attempt(attempt)
        records = run_apart(lambda: self._checkpointer.list(name=name, attempt=number, scope=full_namespace))
        return [record.to_dict() for record in records]

    def load(self, reference: object, path: str | os.PathLike[str] | None = None, node: int | None = None) -> None:
        """Load a checkpoint; its files are verified while they are read, and appear all or not at all.

        Parameters
        ----------
        reference : dict or str
            What ``save()`` or ``list()`` returned, or the key of it, or an object that has it as ``key``.
        path : str or path, optional
            A folder that is empty or does not exist. Default: the checkpoint directory, whose content is replaced.
        node : int, optional
            Of a group save, only the part of this node, as that node saved it. Default: the whole, with a folder ``node-0``,
            ``node-1``, … for each.

        Raises
        ------
        InvalidArgument
            `reference` or `path` is none.
        CheckpointNotFound, CheckpointDamaged, LoadTargetNotEmpty, StoreError
            Nothing was changed.
        """
        known = read_reference(reference)
        if path is not None:
            target = read_path(path, attempted="load a checkpoint")
            run_apart(lambda: self._checkpointer.load(known, target, node=node))
            return
        run_apart(lambda: self._load_into_directory(known, node))

    def _load_into_directory(self, known: str | dict[str, Any], node: int | None) -> None:
        # What is loaded is in a checkpoint already.
        with nullcontext() if self._watcher is None else self._watcher.loading():
            load_in_place_of(self._directory, lambda fresh: self._checkpointer.load(known, fresh, node=node))

    def delete(self, reference: object) -> None:
        """Delete a checkpoint from the datastore, and nothing else. What named it as the newest names the newest that remains.

        A call that was interrupted is finished by another one. A pin does not prevent it. What ``save()`` returned for it in this
        attempt is stored in artifacts as what is not there; references that are kept elsewhere name nothing then.
        In a ``@parallel`` step call it on one node: the others would find nothing to delete, and raise.

        Parameters
        ----------
        reference : dict or str
            As `load` takes it. One that is still being uploaded is waited for.

        Raises
        ------
        CheckpointNotFound, CheckpointDamaged
            Nothing was deleted.
        StoreError
            The datastore can't be reached, or refuses; call it again.
        """
        known = read_reference(reference)
        # Whatever comes in between: an artifact must not name what may be gone.
        self._deleted.add(known if isinstance(known, str) else str(known.get("key")))
        run_apart(lambda: self._checkpointer.delete(known))

    def pin(self, reference: object) -> None:
        """Pin a checkpoint: the rules `keep_last`, `keep_best` and `keep_every` never delete it, until `unpin`. `delete` does.

        Parameters
        ----------
        reference : dict or str
            As `load` takes it. One that is still being uploaded is waited for.

        Raises
        ------
        CheckpointNotFound
            There is none, or it is being deleted.
        StoreError
            The datastore can't be reached, or refuses.
        """
        known = read_reference(reference)
        run_apart(lambda: self._checkpointer.pin(known))

    def unpin(self, reference: object) -> None:
        """Take the pin of a checkpoint away; where there is none, nothing is done. Raises StoreError."""
        known = read_reference(reference)
        run_apart(lambda: self._checkpointer.unpin(known))

    def add_listener(self, callback: Callable[[object], None]) -> None:
        """Have every event from now on passed to `callback`: the classes are public names of ``ckpt_async`` (``EntrySaved``,
        ``EntryCommitted``, ``EntryFailed``, ``CheckpointPruned``, …).

        It is called in a thread of the engine, or in that of ``save()``, and must be quick. One that raises is told of once, and
        hears no more.
        """
        self._checkpointer.add_listener(callback)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything saved so far is in the datastore.

        Parameters
        ----------
        timeout : float, optional
            In seconds. Default: the attribute ``flush_timeout``.

        Raises
        ------
        InvalidArgument
            `timeout` is no number of seconds.
        FlushTimeout
            The time is over; what was saved is still queued.
        CheckpointNotStored, StoreError
            A save was given up, or can't be stored as things are.
        """
        timeout_s = read_timeout(timeout)
        run_apart(lambda: self._checkpointer.flush(timeout_s))

    def add_source(self, source: Source) -> None:
        """Have ``source.flush(deadline_s)`` called before each flush and before the task ends: for code that holds something in
        memory and saves it by itself, as the integrations do. It may raise why it could not.
        """
        self._checkpointer.add_source(source)
