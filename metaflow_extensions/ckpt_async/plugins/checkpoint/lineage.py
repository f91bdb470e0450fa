"""Which checkpoint a task began from: written into the task's metadata, and followed from task to task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_async import CheckpointRecord

__all__ = ["lineage_of_task", "loaded_fields"]

_PREFIX = "checkpoint-load-"


def loaded_fields(record: CheckpointRecord) -> dict[str, str]:
    """Return the metadata of a task that began from this checkpoint."""
    fields = {"key": record.key, "pathspec": record.pathspec, "attempt": str(record.attempt), "name": record.name}
    return {_PREFIX + name: value for name, value in fields.items()}


def lineage_of_task(task: Any, *, attempt: int | str | None) -> list[dict[str, Any]]:
    """Return what an attempt of a task began from, what the task that had saved this began from, and so on.

    Parameters
    ----------
    task : metaflow.Task or str
        A str is a pathspec.
    attempt : int or None
        None: the task's latest one.

    Returns
    -------
    list of dict
        Each with ``key``, ``pathspec``, ``attempt`` and ``name`` of a checkpoint. It ends where a task began from nothing, or is
        no longer known.

    Raises
    ------
    InvalidArgument
        `task` or `attempt` is not what it should be.
    metaflow.exception.MetaflowException
        There is no such task.
    """
    from metaflow import Task
    from metaflow.exception import MetaflowNotFound

    from .arguments import read_attempt
    from .references import read_task_argument

    found = read_task_argument(task)
    number = read_attempt(attempt)
    attempt_number = found.current_attempt if number is None else number
    pathspec = found.pathspec
    seen: set[tuple[str, int]] = set()
    lineage: list[dict[str, Any]] = []
    # Nobody but a stranger in the metadata could make a ring of them.
    while (pathspec, attempt_number) not in seen:
        seen.add((pathspec, attempt_number))
        try:
            told = Task(pathspec, attempt=attempt_number, _namespace_check=False).metadata_dict
        except MetaflowNotFound:
            if not lineage:
                raise
            break
        if _PREFIX + "key" not in told:
            break
        one = {name: told.get(_PREFIX + name, "") for name in ("key", "pathspec", "attempt", "name")}
        attempt_number = int(one["attempt"])
        pathspec = one["pathspec"]
        lineage.append({**one, "attempt": attempt_number})
    return lineage
