"""What an attempt leaves in the flow's artifacts: records of checkpoints that are in the store, and nothing else.

The references that a user keeps in artifacts need no help: they turn into plain dicts when they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .names import LATEST, TASK_CHECKPOINTS

if TYPE_CHECKING:
    from ckpt_async import CheckpointRecord, CheckpointReference, Reader, StoreAddress, TaskIdentity

__all__ = ["newest_in_store", "of_attempt_in_store", "records_of", "store_artifacts"]

COMMITTED = "committed"


def records_of(references: Iterable[CheckpointReference]) -> list[dict[str, Any]]:
    """Return the records of those that are in the store, newest first, as plain dicts."""
    committed = [dict(reference) for reference in references if reference.status == COMMITTED]
    return sorted(committed, key=_order, reverse=True)


def _order(record: dict[str, Any]) -> tuple[int, int]:
    return record["attempt"], record["version_id"]


def of_attempt_in_store(reader: Reader, identity: TaskIdentity) -> tuple[list[CheckpointRecord], CheckpointRecord | None]:
    """Return what the store has of an attempt, whichever process saved it, and the task's newest checkpoint.

    Raises
    ------
    StoreError, CheckpointDamaged
        The store can't tell.
    """
    return reader.list(identity.pathspec, attempt=identity.attempt), reader.latest(identity.pathspec)


def store_artifacts(flow: Any, records: Sequence[dict[str, Any]], latest: dict[str, Any] | None) -> None:
    """Set the two artifacts; Metaflow stores them when the attempt ends, in whatever way."""
    setattr(flow, TASK_CHECKPOINTS, list(records))
    setattr(flow, LATEST, latest)


def newest_in_store(address: StoreAddress, pathspec: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the record of a task's newest checkpoint, for an attempt that saves nothing; None where there is none, or where the
    store can't tell, which is said.
    """
    from ckpt_async import CheckpointError, open_reader

    try:
        record = open_reader(address).latest(pathspec)
    except CheckpointError as error:
        say(f"the newest checkpoint of {pathspec} is not known: {error}")
        return None
    return None if record is None else record.to_dict()
