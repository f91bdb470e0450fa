"""Arguments that users pass to `list` and `load`, in a task and outside of one, read the same way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ckpt_async import InvalidArgument

from .arguments import read_attempt
from .directory import empty_directory

if TYPE_CHECKING:
    from ckpt_async import StoreAddress

__all__ = ["list_of_task", "load_in_place_of", "read_reference", "read_task_argument", "store_of_task"]


def list_of_task(task: Any, *, name: str | None, attempt: int | str | None) -> list[dict[str, Any]]:
    """List the checkpoints of one attempt of a task, newest first.

    Parameters
    ----------
    task : metaflow.Task or str
        A str is a pathspec.
    name : str or None
        Only those of that name.
    attempt : int or None
        None: the task's latest one.

    Raises
    ------
    InvalidArgument
        `task` or `attempt` is not what it should be.
    metaflow.exception.MetaflowException
        There is no such task.
    StoreError, CheckpointDamaged
        The store can't be asked, or a record in it can't be read.
    """
    from ckpt_async import open_reader

    number = read_attempt(attempt)
    address, found = store_of_task(task)
    if number is None:
        number = found.current_attempt
    records = open_reader(address).list(found.pathspec, name=name, attempt=number)
    return [record.to_dict() for record in records]


def store_of_task(task: Any) -> tuple[StoreAddress, Any]:
    """Return where the checkpoints of a task are, and the `metaflow.Task` under which they are kept: the one that `resume` has
    taken over, the control task of a gang. Raises as `read_task_argument`.
    """
    from .artifact_store import store_in_metadata
    from .gang import kept_under
    from .store import configured_address, stored_address

    found = read_task_argument(task)
    told = found.metadata_dict
    # What `resume` has taken over from another run has its checkpoints there.
    while "origin-task-id" in told and "origin-run-id" in told:
        flow, _, step, _ = found.pathspec.split("/")
        found = read_task_argument(f"{flow}/{told['origin-run-id']}/{step}/{told['origin-task-id']}")
        told = found.metadata_dict
    if (control := kept_under(told)) is not None:
        found = read_task_argument(control)
        told = found.metadata_dict
    # A task says where its datastore is: the caller may stand in another folder, or be configured for another one. One that has
    # not begun says nothing yet.
    kind_and_root = store_in_metadata(told) or (told.get("ds-type"), told.get("ds-root"))
    address = configured_address() if kind_and_root[0] is None else stored_address(kind_and_root[0], kind_and_root[1])
    return address, found


def read_task_argument(task: Any) -> Any:
    """Return the `metaflow.Task` that a user names, of whichever namespace.

    Raises
    ------
    InvalidArgument
        It is neither a task nor a pathspec.
    metaflow.exception.MetaflowException
        There is no such task.
    """
    from metaflow import Run, Step, Task

    if isinstance(task, Task):
        return task
    if isinstance(task, str) and task.count("/") == 3 and all(task.split("/")):
        return Task(task, _namespace_check=False)
    raise InvalidArgument(
        "find a task",
        on=f"task={task!r}"[:200],
        cause="it is neither a metaflow.Task nor the pathspec of one",
        hint={Step: "Of a step: step.task.", Run: "Of a run: run['STEP'].task."}.get(
            type(task), "Pass a task, or a text such as 'TrainFlow/12/start/1'."
        ),
    )


def read_reference(reference: object) -> str | dict[str, Any]:
    """Return what the engine loads by: a key, or a plain dict, made of the ``key`` (and ``url``) of any other object that has one.

    Raises
    ------
    InvalidArgument
        It is neither a text nor a mapping nor an object with a key.
    """
    if isinstance(reference, str):
        return reference
    if isinstance(reference, Mapping):
        return dict(reference)
    key = getattr(reference, "key", None)
    if isinstance(key, str):
        return {"key": key, "url": str(getattr(reference, "url", ""))}
    raise InvalidArgument(
        "use a reference to a checkpoint",
        on=f"{type(reference).__name__} {str(reference)[:100]!r}",
        cause="a reference is a dict, a key, or an object with a key",
        # Not looked into: an artifact is fetched then.
        hint="Pass its .data." if hasattr(type(reference), "data") else "Pass what save() or list() returned.",
    )


def load_in_place_of(directory: str, load: Callable[[str], object]) -> None:
    """Replace the content of a folder by what `load` writes into the missing folder that it is given.

    That one stands beside `directory`, on the same filesystem: where `load` raises, the old content is still there. A `directory`
    that is gone is made anew.
    """
    with tempfile.TemporaryDirectory(prefix=".ckpt-async-load-", dir=os.path.dirname(directory)) as beside:
        fresh = os.path.join(beside, "loaded")
        load(fresh)
        empty_directory(directory)
        for name in os.listdir(fresh):
            os.rename(os.path.join(fresh, name), os.path.join(directory, name))
