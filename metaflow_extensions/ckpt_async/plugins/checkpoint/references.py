"""Arguments that users pass to `list` and `load`, in a task and outside of one, read the same way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ckpt_async import InvalidArgument

from .directory import empty_directory

__all__ = ["list_of_task", "load_in_place_of", "read_attempt", "read_reference"]


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
    metaflow.exception.MetaflowNotFound
        There is no such task.
    StoreError, CheckpointDamaged
        The store can't be asked, or a record in it can't be read.
    """
    from metaflow import Task

    from ckpt_async import open_reader

    from .store import store_address

    number = read_attempt(attempt)
    found = Task(task, _namespace_check=False) if isinstance(task, str) else task
    if number is None:
        number = found.current_attempt
    # A task says where its datastore is: the caller may stand in another folder, or be configured for another one.
    told = found.metadata_dict
    address = store_address(told["ds-type"], told["ds-root"])
    records = open_reader(address).list(found.pathspec, name=name, attempt=number)
    return [record.to_dict() for record in records]


def read_attempt(attempt: int | str | None) -> int | None:
    """Return an attempt as a number; raises InvalidArgument where it is none."""
    if attempt is None:
        return None
    try:
        return int(attempt)
    except (TypeError, ValueError):
        raise InvalidArgument("list checkpoints", on=f"attempt={attempt!r}", cause="an attempt is a whole number") from None


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
        "load a checkpoint",
        on=f"a {type(reference).__name__}",
        cause="a reference is a dict, a key, or an object with a key",
        hint="Pass what save() or list() returned.",
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
