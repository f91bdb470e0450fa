"""`from metaflow import Checkpoint`: checkpoints outside a task, and in child processes of one."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from ckpt_async import Checkpointer, StoreAddress

    from .environment import TaskEnvironment, TaskPlace

__all__ = ["Checkpoint"]

#: What `list` returns; inside the class its name means the method.
Records = list[dict[str, Any]]

DIRECTORY_HINT = "Pass path=..., or use `with Checkpoint() as checkpoint:`."


class Checkpoint:
    """Lists, loads and deletes checkpoints anywhere; saves them in a child process of a task that has `@checkpoint`.

    ```
    for record in Checkpoint().list(task="TrainFlow/12/train/34"):
        print(record["name"], record["metadata"])
    Checkpoint().load(record, "restored")
    ```

    In a child process, as a context manager:

    ```
    with Checkpoint() as checkpoint:
        write_model(checkpoint.directory)
        checkpoint.save(name="from-the-child")
    ```

    Parameters
    ----------
    temp_dir_root : str, optional
        The folder in which `directory` is made. Default: the system's folder for temporary files.
    init_dir : bool, default False
        Make `directory` at once, without ``with``.

    Raises
    ------
    CheckpointNotPossible
        In a remote task of a flow without `@checkpoint`.
    InvalidArgument
        With `init_dir`: `directory` can't be made. Without, ``with`` raises it.
    """

    def __init__(self, temp_dir_root: str | None = None, init_dir: bool = False) -> None:
        if importlib.util.find_spec("ckpt_async") is None:
            from .errors import CheckpointNotPossible

            raise CheckpointNotPossible(
                "The package ckpt_async is not here. A flow's code is sent to remote tasks together with it where one of its steps "
                "has @checkpoint: add that to a step, or install ckpt-async in the image."
            )
        self._temp_dir_root = temp_dir_root
        self._owned: tempfile.TemporaryDirectory[str] | None = None
        if init_dir:
            self._make_directory()

    @property
    def directory(self) -> str | None:
        """A folder for files to save and for files that are loaded; None outside ``with``."""
        return None if self._owned is None else self._owned.name

    def __enter__(self) -> Checkpoint:
        if self._owned is None:
            self._make_directory()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove `directory`; ``with`` does it. May be called again."""
        owned, self._owned = self._owned, None
        if owned is not None:
            owned.cleanup()

    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        metadata: dict[str, Any] | None = None,
        latest: bool = True,
        name: str = "mfchckpt",
        storage_format: str = "files",
        group: bool = False,
    ) -> dict[str, Any]:
        """Save a checkpoint for the task that started this process; returns once it is in the datastore.

        Parameters
        ----------
        path : str or path, optional
            A folder or a file. Default: `directory`.
        metadata : dict, optional
            Kept with it.
        latest : bool, default True
            Whether a later attempt loads it, unless a newer one is saved.
        name : str, default "mfchckpt"
            Of the checkpoint.
        storage_format : str, default "files"
            ``"files"`` or ``"tar"``.
        group : bool, default False
            As in ``current.checkpoint.save``: one process of each node calls it. Returns once the part of this node is stored.

        Returns
        -------
        dict
            The record.

        Raises
        ------
        InvalidArgument
            The process does not belong to a task with `@checkpoint`, or there is nothing to save.
        CheckpointError
            It could not be saved, or not be stored.
        """
        from ckpt_async import InvalidArgument

        target = self.directory if path is None else path
        if target is None:
            raise InvalidArgument("save a checkpoint", on="path=None", cause="there is no directory", hint=DIRECTORY_HINT)
        checkpointer = _open_for_child(group)
        try:
            saved = checkpointer.save(
                target, name=name, metadata=metadata, latest=latest, storage_format=storage_format, group=group
            )
        finally:
            checkpointer.close(timeout_s=checkpointer.settings.flush_timeout_s)
        return dict(saved)

    def generate_key(self, name: str, version_id: int | None = None) -> str:
        """Return the key that a save has, or will have, of the task that started this process.

        Parameters
        ----------
        name : str
            Of the checkpoint.
        version_id : int, optional
            The save number. Default: that of the next save, whichever process of the task makes it; nothing is taken.

        Raises
        ------
        InvalidArgument
            The process does not belong to a task with `@checkpoint`, or nothing can be saved under this name or number.
        """
        from ckpt_async import InvalidArgument, check_name, data_key, next_save_number

        check_name(name)
        mine, place = _task_of_child("make the key of a checkpoint")
        if version_id is None:
            version_id = next_save_number(
                mine.identity,
                place.address,
                scratch_root=place.scratch_root,
                node_index=place.node_index,
                num_nodes=place.num_nodes,
            )
        if isinstance(version_id, bool) or not isinstance(version_id, int) or version_id < 0:
            raise InvalidArgument(
                "make the key of a checkpoint", on=f"version_id={version_id!r}", cause="save numbers count from 0"
            )
        return data_key(mine.identity, name, version_id)

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
            The task, also by its pathspec; its latest attempt, unless `attempt` names one. Default, in a child process of a task:
            that task, all attempts.
        attempt : int, optional
            Only those of that attempt.
        full_namespace : bool, default False
            Those of all runs that the task could resume from with ``load_policy="eager"``; only in a child process of a task.

        Raises
        ------
        InvalidArgument
            `task` is missing outside of a task, or an argument is not what it should be.
        StoreError, CheckpointDamaged
            The store can't be asked, or a record in it can't be read.
        """
        from ckpt_async import InvalidArgument, open_reader, scope_records_prefix

        from .arguments import read_attempt, read_name_filter
        from .environment import read_task
        from .references import list_of_task

        name = read_name_filter(name)
        if task is not None and not full_namespace:
            return list_of_task(task, name=name, attempt=attempt)
        mine = read_task(os.environ)
        if mine is None or task is not None:
            raise InvalidArgument(
                "list checkpoints",
                on=f"task={task!r}, full_namespace={full_namespace}",
                cause="that needs a process of a task with @checkpoint" if full_namespace else "no task is named",
                hint="Pass task='FLOW/RUN/STEP/TASK' alone.",
            )
        reader = open_reader(_address_of(mine))
        wanted: dict[str, Any] = {"name": name, "attempt": read_attempt(attempt)}
        if full_namespace:
            records = reader.list_scope(scope_records_prefix(mine.identity), **wanted)
        else:
            records = reader.list(mine.identity.pathspec, **wanted)
        return [record.to_dict() for record in records]

    def load(self, reference: object, path: str | os.PathLike[str] | None = None, node: int | None = None) -> None:
        """Load a checkpoint; its files are verified while they are read, and appear all or not at all.

        Parameters
        ----------
        reference : dict or str
            What ``save()`` or ``list()`` returned, or the key of it, or an object that has it as ``key``.
        path : str or path, optional
            A folder that is empty or does not exist. Default: `directory`, whose content is replaced.
        node : int, optional
            As in ``current.checkpoint.load``.

        Raises
        ------
        InvalidArgument
            There is no folder to load into, or `reference` or `path` is none.
        CheckpointNotFound, CheckpointDamaged, LoadTargetNotEmpty, StoreError
            Nothing was changed.
        """
        from ckpt_async import InvalidArgument, open_reader

        from .arguments import read_path
        from .references import load_in_place_of, read_reference

        known = read_reference(reference)
        target = None if path is None else read_path(path, attempted="load a checkpoint")
        reader = open_reader(_address_of_reference(known))
        if target is not None:
            reader.load(known, target, node=node)
        elif self.directory is not None:
            load_in_place_of(self.directory, lambda fresh: reader.load(known, fresh, node=node))
        else:
            raise InvalidArgument("load a checkpoint", on="path=None", cause="there is no directory", hint=DIRECTORY_HINT)

    def delete(self, reference: object) -> None:
        """Delete a checkpoint from the datastore, and nothing else. What named it as the newest names the newest that remains.

        A call that was interrupted is finished by another one. A pin does not prevent it. In the step itself,
        `current.checkpoint.delete` also keeps it out of the task's artifacts; references in other artifacts name nothing then.

        Parameters
        ----------
        reference : dict or str
            As `load` takes it.

        Raises
        ------
        CheckpointNotFound, CheckpointDamaged
            Nothing was deleted.
        StoreError
            The datastore can't be reached, or refuses; call it again.
        """
        from ckpt_async import open_reader

        from .references import read_reference

        known = read_reference(reference)
        open_reader(_address_of_reference(known)).delete(known)

    def pin(self, reference: object) -> None:
        """Pin a checkpoint: no rule deletes it, in a task or by `prune`, until `unpin`. `delete` does.

        Parameters
        ----------
        reference : dict or str
            As `load` takes it.

        Raises
        ------
        CheckpointNotFound
            There is none, or it is being deleted.
        StoreError
            The datastore can't be reached, or refuses.
        """
        from ckpt_async import open_reader

        from .references import read_reference

        known = read_reference(reference)
        open_reader(_address_of_reference(known)).pin(known)

    def unpin(self, reference: object) -> None:
        """Take the pin of a checkpoint away; where there is none, nothing is done. Raises StoreError."""
        from ckpt_async import open_reader

        from .references import read_reference

        known = read_reference(reference)
        open_reader(_address_of_reference(known)).unpin(known)

    def prune(
        self,
        task: Any,
        keep_last: int | None = None,
        keep_best: str | None = None,
        keep_every: int | str | None = None,
        name: str | None = None,
        dry_run: bool = True,
    ) -> Records:
        """Delete the checkpoints of a task that rules don't keep, as ``@checkpoint(keep_last=...)`` does it while the task runs.

        Parameters
        ----------
        task : metaflow.Task or str
            The task, also by its pathspec; all of its attempts.
        keep_last, keep_best, keep_every
            As of ``@checkpoint``. What any of them keeps stays.
        name : str, optional
            Only checkpoints of that name.
        dry_run : bool, default True
            Whether nothing is deleted.

        Returns
        -------
        list of dict
            The records of what is deleted, or would be.

        Raises
        ------
        InvalidArgument
            No rule is given, or a value is not allowed.
        StoreError, CheckpointDamaged
            The store can't be asked, or refuses. Some of it may be deleted; another call deletes the rest.
        """
        from ckpt_async import InvalidArgument, KeepRules, open_reader

        from .arguments import read_name_filter
        from .references import store_of_task

        name = read_name_filter(name)
        rules = KeepRules.read(keep_last=keep_last, keep_best=keep_best, keep_every=keep_every)
        if not rules:
            raise InvalidArgument(
                "prune checkpoints",
                on=str(task),
                cause="no rule is given",
                hint="Pass keep_last=3, or another one.",
            )
        address, found = store_of_task(task)
        reader = open_reader(address)
        decision = reader.plan_prune(found.pathspec, rules, name=name)
        doomed = decision.doomed if dry_run else reader.prune(decision).deleted
        return [record.to_dict() for record in doomed]

    def lineage(self, task: Any, attempt: int | str | None = None) -> Records:
        """Tell from which checkpoint a task began, from which one the task that saved that had begun, and so on.

        Parameters
        ----------
        task : metaflow.Task or str
            The task, also by its pathspec. For that of a checkpoint, its record has ``pathspec`` and ``attempt``.
        attempt : int, optional
            Of the task. Default: its latest one.

        Returns
        -------
        list of dict
            Each with the ``key``, ``pathspec``, ``attempt`` and ``name`` of a checkpoint, the one that `task` began from first;
            ``key`` may be passed to `load`, unless it was deleted. Empty where the task began from nothing.
        """
        from .lineage import lineage_of_task

        return lineage_of_task(task, attempt=attempt)

    def _make_directory(self) -> None:
        from .arguments import read_path
        from .directory import not_made

        root = self._temp_dir_root
        if root is not None:
            root = read_path(root, attempted="make the checkpoint directory", argument="temp_dir_root")
        try:
            if root is not None:
                os.makedirs(root, exist_ok=True)
            self._owned = tempfile.TemporaryDirectory(prefix="metaflow_checkpoint_", dir=root)
        except OSError as error:
            raise not_made(error, root) from error


def _address_of(mine: TaskEnvironment) -> StoreAddress:
    from .store import configured_address

    return configured_address() if mine.place is None else mine.place.address


def _address_of_reference(reference: str | dict[str, Any]) -> StoreAddress:
    """Return the store of a reference: the one in its URL; for a key alone, the task's or the configured one."""
    from .environment import read_task
    from .store import configured_address, stored_address

    if isinstance(reference, dict):
        url, key = str(reference.get("url", "")), str(reference.get("key", ""))
        if key and url.endswith(f"/{key}"):
            root = url.removesuffix(f"/{key}").removeprefix("file://")
            scheme, separator, _ = root.partition("://")
            if not separator:
                # A folder; else a container of Azure, which metaflow-checkpoint writes without a scheme.
                scheme = "local" if os.path.isabs(root) or os.path.isdir(root) else "azure"
            return stored_address(scheme, root)
    mine = read_task(os.environ)
    return configured_address() if mine is None else _address_of(mine)


def _task_of_child(attempted: str) -> tuple[TaskEnvironment, TaskPlace]:
    from ckpt_async import InvalidArgument

    from .environment import STORE, UID, read_task

    mine = read_task(os.environ)
    if mine is None or mine.place is None:
        raise InvalidArgument(
            attempted,
            on="Checkpoint()",
            cause="this process does not belong to a task with @checkpoint",
            hint=f"Call it in a step with @checkpoint, or in a child process that has the variables {UID} and {STORE} of the task.",
        )
    return mine, mine.place


def _open_for_child(group: bool) -> Checkpointer:
    """Open a checkpointer for one save of a child process."""
    from ckpt_async import open_for_child

    from .output import say

    mine, place = _task_of_child("save a checkpoint")
    return open_for_child(
        mine.identity,
        place.address,
        scratch_root=place.scratch_root,
        say=say,
        node_index=place.node_index,
        num_nodes=place.num_nodes,
        group=group,
    )
