"""Pins: a small object beside a checkpoint that keeps rules away from it. `delete()` by hand goes its way all the same."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.catalog import key_of_reference, resolve
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointNotFound
from ckpt_async.words.records import CheckpointRecord

__all__ = ["pin", "pinned_keys_of", "unpin"]


async def pin(store: Store, reference: object) -> CheckpointRecord:
    """Pin a checkpoint; returns its record. When this returns, no rule deletes it any more. May be repeated.

    Raises
    ------
    InvalidArgument
        The reference is malformed.
    CheckpointNotFound
        There is no such checkpoint in this store, or it is being deleted.
    """
    record = await resolve(store, reference)
    body = json.dumps({"key": record.key, "pinned_at_unix_ns": time.time_ns()}).encode()
    await store.put(keys.pin_key(record.key), Body.of(body))
    # Behind the pin: who deletes by rules looks for a pin behind the mark.
    marked = await store.head(keys.deletion_key(record.key)) is not None
    gone = await store.head(keys.record_key(record.key)) is None
    if gone:
        await store.delete([keys.pin_key(record.key)])
    if gone or marked:
        # Where it is not gone yet, the pin stays: it may be that of another call, which has been confirmed. A deletion that goes on
        # takes it along.
        raise CheckpointNotFound(
            "pin a checkpoint",
            on=record.key,
            cause="it is being deleted",
            hint="Pin another one; list() shows what there is. Where this one stays after all, it is pinned.",
        )
    return record


async def unpin(store: Store, reference: object) -> str:
    """Take the pin of a checkpoint away, if there is one; returns the key of the checkpoint. Raises InvalidArgument."""
    key = key_of_reference(reference)
    await store.delete([keys.pin_key(key)])
    return key


async def pinned_keys_of(store: Store, records: Iterable[CheckpointRecord]) -> set[str]:
    """Return the keys of those of these checkpoints that are pinned: one listing for each scope and task identifier."""
    wanted = {keys.pin_key(record.key): record.key for record in records}
    prefixes = dict.fromkeys(keys.pins_prefix_of(key) for key in wanted.values())
    return {wanted[info.key] for prefix in prefixes for info in await store.list(prefix) if info.key in wanted}
