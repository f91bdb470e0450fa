"""Making a checkpoint visible, in the one order that never shows a half of it.

Data, then the manifest, then the record by key, then the task's record, then the two `latest` pointers, each only forward.
Every step may be repeated. A reader that finds a record finds all that it names; a reader that follows `latest` finds a record.
"""

from __future__ import annotations

import anyio.to_thread

from ckpt_async.stores.contract import Body, Store
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing, StorePreconditionFailed, StoreUnavailable
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord, supersedes

__all__ = ["advance_pointer", "commit"]

#: How often a pointer is tried again after other writers were faster: each time one of them has moved it forward.
POINTER_TRIES = 100


async def commit(store: Store, identity: TaskIdentity, record: CheckpointRecord, manifest: Manifest, *, latest: bool) -> None:
    """Make an uploaded checkpoint visible. All of its data must be in the store.

    Parameters
    ----------
    latest : bool
        Whether the pointers move to it; they never move backwards.
    """
    text = Body.of(record.to_json())
    # In a thread: for 50,000 files it takes a tenth of a second.
    manifest_text = await anyio.to_thread.run_sync(manifest.to_json)
    await store.put(record.manifest, Body.of(manifest_text))
    # By key first: whoever finds it in the task's list loads it by its key.
    await store.put(keys.record_key(record.key), text)
    await store.put(keys.task_record_key(identity, record.name, record.version_id), text)
    if latest:
        await advance_pointer(store, keys.task_latest_key(identity.pathspec), record)
        await advance_pointer(store, keys.scope_latest_key(identity), record)


async def advance_pointer(store: Store, key: str, record: CheckpointRecord) -> bool:
    """Let the pointer under `key` name `record`, unless it names the same or a later one; returns whether it names `record` now.

    Of several writers at once, the one with the latest record wins, in whatever order they arrive: each write is conditional on the
    state that the decision was made on.
    """
    text = Body.of(record.to_json())
    for _ in range(POINTER_TRIES):
        info = await store.head(key)
        try:
            if info is None:
                await store.put(key, text, if_absent=True)
                return True
            try:
                current = CheckpointRecord.from_json(await store.get(key, if_match=info.etag), source=key)
            except CheckpointDamaged:
                # It points nowhere; the record in hand is complete, so pointing to it is a repair.
                current = None
            if current is not None and not supersedes(record, current):
                return current.key == record.key
            await store.put(key, text, if_match=info.etag)
            return True
        except (StorePreconditionFailed, StoreObjectMissing):
            # Another writer was faster, or our own write arrived and its answer was lost: look again.
            continue
    raise StoreUnavailable(
        "move a latest pointer",
        on=key,
        cause=f"other writers changed it {POINTER_TRIES} times meanwhile",
        hint="The worker tries again.",
    )
