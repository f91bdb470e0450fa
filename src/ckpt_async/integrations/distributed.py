"""`torch.distributed.checkpoint`: sharded states, saved by many processes and loaded by as many or others.

```
dcp.save(state, storage_writer=CheckpointWriter(current.checkpoint, metadata={"step": step}))
...
dcp.load(state, storage_reader=CheckpointReader(current.checkpoint))
```

The processes of one machine write into one folder, which the first of them saves. Of several machines each saves its part, with
``group=True``. The format is that of PyTorch, which reads the description of the shards (``.metadata``) with pickle: go on only
from checkpoints in a datastore that you trust.
"""

from __future__ import annotations

import dataclasses
import os
import time
import uuid
import weakref
from concurrent import futures
from contextlib import ExitStack, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, NoReturn

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter

from ckpt_async.integrations.saver import Saver, fresh_folder
from ckpt_async.reference import CheckpointReference
from ckpt_async.words.errors import CheckpointError, FlushTimeout, InvalidArgument, SnapshotFailed
from ckpt_async.words.names import DEFAULT_NAME, SAVING_PREFIX

__all__ = ["CheckpointReader", "CheckpointWriter", "ShardedSaves"]


@dataclasses.dataclass(frozen=True)
class _Share:
    """What the first process tells each about its part: the beginning of its files' names, and the folder for them.

    Attributes
    ----------
    folder : str
        Its name, in the directory of each machine; on one machine the whole path.
    """

    prefix: str
    folder: str


class CheckpointWriter(FileSystemWriter):
    """Writes the shards of one state, for ``dcp.save`` and ``dcp.async_save``, and saves them. Make one for each save.

    Parameters
    ----------
    saver : Saver or None
        `current.checkpoint`, for example, in the process that saves: that of rank 0; with `group`, one on each machine. None in the
        others.
    directory : str or path-like, optional
        The folder in which the shards are written until they are saved. Default: that of the saver. With `group`, every process
        needs it, and those of one machine the same.
    name, metadata, latest
        As ``save()`` takes them; those of rank 0 hold.
    group : bool
        Whether the processes are on several machines. On each, the one with the saver calls `save_part` when ``dcp.save`` has
        returned, or the future of ``dcp.async_save`` is done.
    thread_count : int
        With how many threads a process writes.
    """

    def __init__(
        self,
        saver: Saver | None,
        *,
        directory: str | os.PathLike[str] | None = None,
        name: str = DEFAULT_NAME,
        metadata: dict[str, Any] | None = None,
        latest: bool = True,
        group: bool = False,
        thread_count: int = 1,
    ) -> None:
        if directory is None:
            if group and saver is None:
                raise InvalidArgument("save shards", on="directory=None", cause="a process without a saver has no directory")
            directory = "" if saver is None else saver.directory
        # Not synced: save() does without, and promises the same of any file.
        super().__init__(directory, sync_files=False, thread_count=thread_count)
        self._saver = saver
        self._directory = os.fspath(directory)
        self._name = name
        self._metadata = None if metadata is None else dict(metadata)
        self._latest = latest
        self._group = group
        self._remove: weakref.finalize[[str], CheckpointWriter] | None = None

    def __reduce__(self) -> NoReturn:
        raise InvalidArgument(
            "save shards",
            on="AsyncCheckpointerType.PROCESS",
            cause="the saver belongs to this process",
            hint="Use AsyncCheckpointerType.THREAD, which is the default: the upload has a process of its own already.",
        )

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin a save. Raises InvalidArgument for a `checkpoint_id`: the saver knows where to."""
        if checkpoint_id is not None:
            raise InvalidArgument(
                "save shards", on=f"checkpoint_id={str(checkpoint_id)!r}", cause="it has a storage_writer", hint="Leave it out."
            )
        super().reset()

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Learn which process this is."""
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if is_coordinator and self._saver is None:
            raise InvalidArgument("save shards", on="saver=None", cause="the process that coordinates the save needs one")
        if not self.use_collectives:
            raise InvalidArgument("save shards", on="use_collectives=False", cause="then nobody knows when all is written")

    def prepare_local_plan(self, plan: dcp.SavePlan) -> dcp.SavePlan:
        """Return what this process is going to write. The folder is not known yet."""
        return plan

    def prepare_global_plan(self, plans: list[dcp.SavePlan]) -> list[dcp.SavePlan]:
        """Choose the folder, and tell all."""
        folder = f"{SAVING_PREFIX}{uuid.uuid4().hex}"
        if not self._group:
            folder = os.path.join(self._directory, folder)
        return [dataclasses.replace(plan, storage_data=_Share(f"__{rank}_", folder)) for rank, plan in enumerate(plans)]

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Any:
        """Write the shards of this process."""
        folder = os.path.join(self._directory, plan.storage_data.folder)
        with suppress(FileExistsError):
            # Processes of one machine come here in any order.
            os.mkdir(folder, 0o700)
        self.path = Path(folder)
        if self._saver is not None:
            # Whatever comes: at the latest when nobody needs the writer any more.
            self._remove = weakref.finalize(self, rmtree, folder, ignore_errors=True)
        return super().write_data(plan, planner)

    def finish(self, metadata: dcp.Metadata, results: list[list[Any]]) -> None:
        """Write the description of the shards, which are all there, and save."""
        super().finish(metadata, results)
        if not self._group:
            self._save()

    def save_part(self) -> CheckpointReference:
        """Save what the processes of this machine have written, as the part of this machine.

        Raises
        ------
        InvalidArgument
            This is no group save, or nothing was written, or this process has no saver.
        CheckpointError
            As ``save()`` raises it.
        """
        if not self._group or self._remove is None or not self._remove.alive:
            raise InvalidArgument(
                "save the part of a machine",
                on=self._name,
                cause="there is none",
                hint="Call it once after dcp.save(), with group=True, in the process with the saver.",
            )
        return self._save()

    def _save(self) -> CheckpointReference:
        assert self._saver is not None and self._remove is not None
        try:
            return self._saver.save(self.path, name=self._name, metadata=self._metadata, latest=self._latest, group=self._group)
        finally:
            self._remove()


class CheckpointReader(FileSystemReader):
    """Reads a state for ``dcp.load``, whatever the number of processes that saved it.

    Parameters
    ----------
    source : Saver, str or path-like
        What was loaded before the training began: `current.checkpoint`, or the folder in which it lies, which is what the processes
        of ``torchrun`` can be told.
    reference : dict or str, optional
        Another checkpoint. It is loaded when the reader is made, into a folder that goes with the reader. Of a group save the task
        has loaded the part of its own machine alone: then the whole is loaded likewise.

    Raises
    ------
    InvalidArgument
        Nothing was loaded, or a `reference` is to be loaded and `source` is no saver.
    """

    def __init__(self, source: Saver | str | os.PathLike[str], reference: object = None) -> None:
        if isinstance(source, (str, os.PathLike)):
            if reference is not None:
                raise InvalidArgument("load shards", on=os.fspath(source), cause="to load another checkpoint needs the saver")
            super().__init__(source)
            return
        if reference is None:
            if source.info is None:
                raise InvalidArgument("load shards", on=source.directory, cause="no checkpoint was loaded")
            if source.info.get("group"):
                reference = source.info["key"]
        if reference is None:
            super().__init__(source.directory)
            return
        with ExitStack() as owned:
            folder = owned.enter_context(fresh_folder(source))
            source.load(reference, folder)
            super().__init__(folder)
            self._remove = weakref.finalize(self, owned.pop_all().close)

    def set_up_storage_reader(self, metadata: dcp.Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Learn where the shards are: of a group save, in a folder for each machine."""
        super().set_up_storage_reader(metadata, is_coordinator, *args, **kwargs)
        moved = {path.name: str(path.relative_to(self.path)) for path in Path(self.path).glob("node-*/*")}
        if moved:
            self.storage_data: dict[Any, Any] = {
                index: dataclasses.replace(info, relative_path=moved.get(info.relative_path, info.relative_path))
                for index, info in self.storage_data.items()
            }

    def _get_metadata_path(self, rank: int | None = None) -> os.PathLike[str]:
        usual = Path(super()._get_metadata_path(rank))
        return next((path for path in Path(self.path).glob(f"node-*/{usual.name}")), usual)


def _failure(error: Any) -> CheckpointError:
    """Return what an exception of PyTorch, which is no `Exception`, tells of each process."""
    failures = {rank: wrapped[0] for rank, wrapped in error.failures.items()}
    for failure in failures.values():
        if isinstance(failure, CheckpointError):
            return failure
    cause = "; ".join(f"rank {rank}: {type(failure).__name__}: {failure}" for rank, failure in failures.items())
    return SnapshotFailed("save a sharded state", cause=cause)


class ShardedSaves:
    """Saves states with ``dcp.async_save``, one after another: a save waits until the one before it is written.

    It is a source of its saver: the end of the step waits until the last is saved, and raises where it could not be. In processes
    without a saver, call `wait` before they end.

    Parameters
    ----------
    saver : Saver or None
        In the process of rank 0; None in the others.
    process_group : ProcessGroup, optional
        One that knows the backend of the CPU. With a group of its own, what saves communicates meanwhile is not mixed with what the
        training does.
    """

    def __init__(self, saver: Saver | None, *, process_group: Any = None) -> None:
        self._saver = saver
        self._process_group = process_group
        self._last: futures.Future[Any] | None = None
        if saver is not None:
            saver.add_source(self)

    def save(
        self,
        state: dict[str, Any],
        *,
        name: str = DEFAULT_NAME,
        metadata: dict[str, Any] | None = None,
        latest: bool = True,
    ) -> futures.Future[Any]:
        """Copy a state in memory, and have it written and saved in the background. All processes call it.

        Returns
        -------
        Future
            Done when the checkpoint is saved.

        Raises
        ------
        CheckpointError
            Why the save before it was not made.
        """
        self.wait()
        writer = CheckpointWriter(self._saver, name=name, metadata=metadata, latest=latest)
        self._last = dcp.async_save(state, storage_writer=writer, process_group=self._process_group)
        assert self._last is not None
        return self._last

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the last state is saved; raises why it was not, once."""
        last = self._last
        if last is None:
            return
        if not futures.wait([last], timeout).done:
            raise FlushTimeout(
                "save a sharded state",
                cause="it is still being written from memory to the disk",
                hint="It is lost when this process ends before that is done. A longer flush_timeout gives it more time.",
            )
        self._last = None
        try:
            last.result()
        except dcp.CheckpointException as error:
            raise _failure(error) from error

    def flush(self, deadline_s: float) -> None:
        """For the saver; see `ckpt_async.Source`."""
        self.wait(max(0.0, deadline_s - time.monotonic()))
