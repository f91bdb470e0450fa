"""Which checkpoint a task began from: written into the task's metadata, and followed from task to task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_async import CheckpointRecord

    from .card_model import Ancestor

__all__ = ["LineageLookUp", "lineage_of_task", "loaded_fields"]

_PREFIX = "checkpoint-load-"

#: How many tasks a card follows the chain back: each of them is asked for.
MAX_ANCESTORS = 8


def loaded_fields(record: CheckpointRecord) -> dict[str, str]:
    """Return the metadata of a task that began from this checkpoint."""
    fields = {"key": record.key, "pathspec": record.pathspec, "attempt": str(record.attempt), "name": record.name}
    return {_PREFIX + name: value for name, value in fields.items()}


def lineage_of_task(task: Any, *, attempt: int | str | None, most: int | None = None) -> list[dict[str, Any]]:
    """Return what an attempt of a task began from, what the task that had saved this began from, and so on.

    Parameters
    ----------
    task : metaflow.Task or str
        A str is a pathspec.
    attempt : int or None
        None: the task's latest one.
    most : int, optional
        How many are followed; default: all.

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
    while (pathspec, attempt_number) not in seen and len(lineage) != most:
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


class LineageLookUp:
    """Follows the chain behind the checkpoint that was loaded, in a thread of its own: the metadata service may be slow or away,
    and nobody waits for it.

    Parameters
    ----------
    loaded : CheckpointRecord or None
        What the attempt began with.
    on_found : callable
        Called in that thread when it is done.
    """

    def __init__(self, loaded: CheckpointRecord | None, on_found: Callable[[], None]) -> None:
        self._loaded = loaded
        self._on_found = on_found
        self._thread: threading.Thread | None = None
        self._ancestors: tuple[Ancestor, ...] = ()
        self._unknown = "it has not been looked up yet"

    def start(self) -> None:
        """Begin, unless that has been done or nothing was loaded."""
        if self._thread is None and self._loaded is not None:
            self._thread = threading.Thread(target=self._look_up, args=(self._loaded,), name="ckpt-async-lineage", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait for what `start` has begun, so long at most."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def found(self) -> tuple[tuple[Ancestor, ...], str]:
        """Return what is known, newest first, and why no more is: empty where the first of them began from nothing."""
        return self._ancestors, self._unknown

    def _look_up(self, loaded: CheckpointRecord) -> None:
        from .card_model import Ancestor

        try:
            chain = lineage_of_task(loaded.pathspec, attempt=loaded.attempt, most=MAX_ANCESTORS)
        except Exception as error:
            # Metaflow's, of whatever kind its metadata service makes: the card says so, and nothing depends on it.
            self._unknown = f"{type(error).__name__}: {error}"
        else:
            self._ancestors = tuple(Ancestor(one["name"], one["pathspec"], one["attempt"]) for one in chain)
            self._unknown = f"only the last {MAX_ANCESTORS} are looked up" if len(chain) == MAX_ANCESTORS else ""
        self._on_found()
