"""What an attempt leaves in the flow's artifacts: records of checkpoints that are in the store, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .names import LATEST, TASK_CHECKPOINTS

if TYPE_CHECKING:
    from ckpt_async import CheckpointReference, StoreAddress

__all__ = ["newest_in_store", "records_of", "settle_user_references", "store_artifacts"]

COMMITTED = "committed"

#: How deep lists and dicts are looked into; also what ends the search in one that holds itself.
MAX_DEPTH = 3


def records_of(references: Iterable[CheckpointReference]) -> list[dict[str, Any]]:
    """Return the records of those that are in the store, newest first, as plain dicts."""
    committed = [dict(reference) for reference in references if reference.status == COMMITTED]
    return sorted(committed, key=lambda record: (record["attempt"], record["version_id"]), reverse=True)


def store_artifacts(flow: Any, records: Sequence[dict[str, Any]], latest: dict[str, Any] | None) -> None:
    """Set the two artifacts; Metaflow stores them when the attempt ends, in whatever way."""
    setattr(flow, TASK_CHECKPOINTS, list(records))
    setattr(flow, LATEST, latest)


def settle_user_references(flow: Any, references: Iterable[CheckpointReference], say: Callable[[str], None]) -> None:
    """Replace, in the flow's artifacts, references to checkpoints that did not reach the store by None, and say so.

    An artifact outlives the attempt: it must not name a checkpoint that nobody can load. Looks into plain lists, tuples and dicts.
    """
    lost = {id(reference): reference for reference in references if reference.status != COMMITTED}
    if not lost:
        return

    def settled(value: Any, place: str, depth: int) -> Any:
        if id(value) in lost:
            say(f"{place} refers to a checkpoint that is not in the datastore ({value.status}); None is stored in its place.")
            return None
        if depth == MAX_DEPTH:
            return value
        if type(value) is dict:
            changed = {key: settled(item, f"{place}[{key!r}]", depth + 1) for key, item in value.items()}
            return value if all(changed[key] is value[key] for key in value) else changed
        if type(value) in (list, tuple):
            items = [settled(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else type(value)(items)
        return value

    for name, value in list(vars(flow).items()):
        new = settled(value, f"self.{name}", 0)
        if new is not value:
            setattr(flow, name, new)


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
