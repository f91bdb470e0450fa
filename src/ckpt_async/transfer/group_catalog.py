"""Finding the saves that a gang made together, and agreeing on the one that it goes on from."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.catalog import READS_AT_ONCE, list_scope, resolve
from ckpt_async.transfer.gathering import agree
from ckpt_async.transfer.groups import plain_task_group
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument, StoreObjectMissing
from ckpt_async.words.groups import has_group_number, resume_key
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord

__all__ = ["agreed_group", "mark_damaged", "part_of", "visible"]

#: The mark, beside the parts of a group save, that one of them can't be loaded.
DAMAGED = "damaged"


async def agreed_group(store: Store, identity: TaskIdentity, policy: str) -> CheckpointRecord | None:
    """Return the group save that all nodes of an attempt go on from: the newest one that was visible to the node that asked first,
    of the task, with ``"eager"`` else of its scope; None where there was none.

    Without that, a group that becomes whole while the gang starts would be loaded by some nodes and not by others.
    """

    async def newest() -> CheckpointRecord | None:
        found = await _newest_group_of_task(store, identity.pathspec)
        return await _newest_group_of_scope(store, identity) if found is None and policy == "eager" else found

    key = await agree(store, resume_key(identity.pathspec, identity.attempt), newest)
    return await resolve(store, key) if key else None


async def _newest_group_of_task(store: Store, pathspec: str) -> CheckpointRecord | None:
    prefix = keys.task_records_prefix(pathspec)
    numbered: list[tuple[int, int, str]] = []
    for info in await store.list(prefix):
        leaf = info.key.removeprefix(prefix).removesuffix(keys.RECORD_SUFFIX)
        attempt = leaf.split(".")[0]
        if attempt.isdecimal() and has_group_number(leaf):
            numbered.append((int(attempt), int(leaf.rpartition(".")[2]), info.key))
    for _, _, key in sorted(numbered, reverse=True):
        try:
            record = CheckpointRecord.from_json(await store.get(key), source=key)
        except (StoreObjectMissing, CheckpointDamaged):
            continue  # Deleted in this moment; or nobody can load it by this.
        if await _may_go_on_from(store, record):
            return record
    return None


async def _newest_group_of_scope(store: Store, identity: TaskIdentity) -> CheckpointRecord | None:
    for record in (await list_scope(store, keys.scope_records_prefix(identity), groups_only=True)).records:
        if await _may_go_on_from(store, record):
            return record
    return None


async def _may_go_on_from(store: Store, record: CheckpointRecord) -> bool:
    return record.group and record.latest and await store.head(record.group_folder + DAMAGED) is None


async def mark_damaged(store: Store, record: CheckpointRecord) -> None:
    """Note that a node could not load its part of a group save: no later attempt goes on from it."""
    await store.put(record.group_folder + DAMAGED, Body.of(b"damaged"))


def part_of(record: CheckpointRecord, node: int) -> CheckpointRecord:
    """Return what a node has saved of a checkpoint: its part of a group save. Another one has one part, of node 0.

    Raises
    ------
    InvalidArgument
        There is no such part.
    """
    num_nodes = record.num_nodes if record.group else 1
    if isinstance(node, bool) or not isinstance(node, int) or not 0 <= node < num_nodes:
        raise InvalidArgument(
            "load a part of a checkpoint",
            on=record.key,
            cause=f"it has no part of node {node!r}",
            hint=f"It has {num_nodes} parts, from node 0 on." if record.group else "It is no group save: load it without node.",
        )
    return record.part(node) if record.group else record


async def visible(store: Store, keys_of_data: Sequence[str]) -> list[str]:
    """Return those of these keys under which there is a checkpoint."""
    found: list[str] = []
    limiter = anyio.CapacityLimiter(READS_AT_ONCE)

    async def look(key: str) -> None:
        async with limiter:
            if await store.head(keys.record_key(key)) is not None:
                found.append(key)

    async with plain_task_group() as group:
        for key in keys_of_data:
            group.start_soon(look, key)
    return found
