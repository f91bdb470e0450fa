"""What the store has of a task from before a worker began: read from the manifest of the checkpoint that the next save is likeliest
to resemble.

It spares bytes and nothing depends on it: whatever goes wrong here is told, and the upload goes on without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.to_thread

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.catalog import latest_of
from ckpt_async.transfer.download import read_manifest
from ckpt_async.transfer.line_speed import PART_BYTES
from ckpt_async.transfer.plan import SourceFile, largest_object_bytes, part_bytes_within
from ckpt_async.transfer.recorded import from_manifest
from ckpt_async.transfer.unchanged import COPY_MIN_BYTES, StoredBefore
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointError, StoreObjectMissing
from ckpt_async.words.records import CheckpointRecord

__all__ = ["may_gain", "recall"]

#: A store that takes longer is not waited for.
RECALL_TIMEOUT_S = 20.0


def may_gain(store: Store, record: CheckpointRecord, files: Sequence[SourceFile]) -> bool:
    """Return whether anything of an upload could be copied by its sums."""
    return store.traits.far and largest_object_bytes(record, files) >= COPY_MIN_BYTES


async def recall(
    store: Store,
    before: StoredBefore,
    record: CheckpointRecord,
    files: Sequence[SourceFile],
    *,
    loaded: CheckpointRecord | None,
    has_stored: bool,
) -> None:
    """Have `before` know the parts of the task's newest checkpoint, or of the one that the task goes on from.

    Never raises because of the store. For a first attempt that has stored and loaded nothing, the store is asked nothing.

    Parameters
    ----------
    record, files
        Of the upload that is about to begin.
    loaded : CheckpointRecord, optional
        What the task has loaded.
    has_stored : bool
        Whether this attempt had stored something before this worker began: something newer than what was loaded.
    """

    async def of_task() -> CheckpointRecord | None:
        return await latest_of(store, keys.task_latest_key(record.pathspec))

    async def of_load() -> CheckpointRecord | None:
        return loaded

    finds: list[Callable[[], Awaitable[CheckpointRecord | None]]] = [of_load]
    if has_stored:
        finds.insert(0, of_task)
    elif record.attempt > 0:
        # What was loaded was the newest when the attempt began, unless it still waits for its upload, or nothing was loaded.
        finds.append(of_task)
    most_bytes = part_bytes_within(largest_object_bytes(record, files), store.traits, PART_BYTES)
    with anyio.move_on_after(RECALL_TIMEOUT_S) as scope:
        for find in finds:
            try:
                found = await find()
                # What this very upload had stored before its worker died is no source: a store refuses to copy onto itself.
                if found is not None and found.group:
                    found = found.part(record.node_index)
                if found is not None and found.key != record.key and await _learn(store, before, found, most_bytes):
                    return
            except StoreObjectMissing:
                continue  # Deleted, or not stored yet.
            except CheckpointError as error:
                _tell(before, str(error))
    if scope.cancelled_caught:
        _tell(before, f"{store.traits.url} does not answer within {RECALL_TIMEOUT_S:.0f} s.")


def _tell(before: StoredBefore, cause: str) -> None:
    before.tell_once("recall", f"What was stored before can't be looked at, so what has not changed may be sent again. {cause}")


async def _learn(store: Store, before: StoredBefore, record: CheckpointRecord, most_bytes: int) -> bool:
    """Read the manifest of a checkpoint; returns whether it tells of any parts.

    Parameters
    ----------
    most_bytes : int
        Parts of more than twice that are passed by: they would be held in memory, and only a text that nobody here has written can
        ask for them.
    """
    if not record.manifest:
        return False
    manifest = await read_manifest(store, record)
    parts, part_bytes = await anyio.to_thread.run_sync(from_manifest, manifest)
    if not parts or part_bytes > 2 * most_bytes:
        return False
    before.remember(record, parts, part_bytes)
    return True
