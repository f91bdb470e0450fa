"""Putting the parts of a group save together, through the store alone.

A node uploads its files, then notes its part, then looks which parts are there: the node whose part is the last sees all of them,
for a store shows at once what was written. Two nodes may see that in the same moment: what they commit is made of the parts alone,
so both write the same. Before that, the commit is decided on, by a conditional write: an attempt that cleans up after an earlier
one decides against it under the same key, and so does a deletion, so that what is being deleted can't become visible again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from ckpt_async.stores.contract import Body, Store
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.deletion import delete_all_of
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing, StorePreconditionFailed
from ckpt_async.words.groups import (
    COMMITTED,
    DELETED,
    GIVEN_UP,
    group_leaf,
    groups_folder,
    node_folder,
    parse_group_leaf,
    part_key,
    verdict_key,
)
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord

__all__ = ["GroupPart", "agree", "commit_whole", "give_up", "give_up_earlier", "merge", "store_part"]

READS_AT_ONCE = 32


@dataclass(frozen=True)
class GroupPart:
    """What one node has stored of a group save: the record of its ``save()``, and its files, relative to what it saved."""

    record: CheckpointRecord
    manifest: Manifest

    def to_json(self) -> bytes:
        """Return the text that is stored: a manifest, as `Manifest.from_json` reads it, and the record beside it."""
        outer = json.loads(self.manifest.to_json())
        return json.dumps({**outer, "record": json.loads(self.record.to_json())}).encode()

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> GroupPart:
        """Read a stored part. Raises CheckpointDamaged."""
        manifest = Manifest.from_json(text, source=source)
        try:
            record = json.dumps(json.loads(text)["record"]).encode()
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointDamaged("read a part of a group save", on=source, cause=f"{type(error).__name__}: {error}") from error
        return cls(CheckpointRecord.from_json(record, source=source), manifest)


def merge(parts: Sequence[GroupPart]) -> tuple[CheckpointRecord, Manifest]:
    """Return the record and the manifest of the whole, which depend on nothing but the parts, in the order of the nodes.

    The metadata are those of node 0.
    """
    newest = max(parts, key=lambda part: (part.record.saved_at_unix_ns, part.record.node_index)).record
    record = dataclasses.replace(
        parts[0].record,
        node_index=-1,
        size_bytes=sum(part.record.size_bytes for part in parts),
        saved_at_unix_ns=newest.saved_at_unix_ns,
        created_on=newest.created_on,
        latest=all(part.record.latest for part in parts),
    )
    files = [
        dataclasses.replace(file, path=f"{node_folder(part.record.node_index)}/{file.path}")
        for part in parts
        for file in part.manifest.files
    ]
    directories = []
    for part in parts:
        folder = node_folder(part.record.node_index)
        directories += [folder, *(f"{folder}/{path}" for path in part.manifest.directories)]
    files.sort(key=lambda file: file.path)
    return record, Manifest(record.key, record.storage_format, tuple(files), tuple(sorted(directories)))


async def store_part(store: Store, identity: TaskIdentity, record: CheckpointRecord, manifest: Manifest) -> CheckpointRecord | None:
    """Note a part whose data are all in the store, and make the whole visible where it is the last one. May be repeated.

    Parameters
    ----------
    record : CheckpointRecord
        Of this node's ``save()``.
    manifest : Manifest
        Of this node's files.

    Returns
    -------
    CheckpointRecord or None
        The whole where it is visible. If it is not, parts of other nodes are to come; or a later attempt has given it up, or
        somebody has deleted it, and nothing of it remains.

    Raises
    ------
    CheckpointDamaged
        A part or the verdict can't be read, or a part is of another group.
    """
    text = await anyio.to_thread.run_sync(GroupPart(record, manifest).to_json)
    folder = record.group_folder
    await store.put(part_key(folder, record.node_index), Body.of(text))
    there = {info.key for info in await store.list(folder)}
    verdict = await store.get(verdict_key(folder)) if verdict_key(folder) in there else b""
    if not verdict and there.issuperset(_part_keys(record)):
        verdict = await _decide(store, verdict_key(folder), COMMITTED)
    if verdict == COMMITTED:
        return await commit_whole(store, identity, record)
    if verdict == GIVEN_UP:
        await _remove_data(store, record.part(record.node_index).key, [part_key(folder, record.node_index)])
    elif verdict == DELETED:
        # Of all nodes, not of this one: after a deletion that was interrupted the whole may still be seen.
        await delete_all_of(store, record)
    elif verdict:
        raise CheckpointDamaged("put a group save together", on=verdict_key(folder), cause=f"the verdict is {verdict[:40]!r}")
    return None


async def commit_whole(store: Store, identity: TaskIdentity, record: CheckpointRecord) -> CheckpointRecord | None:
    """Make visible a group save on which the verdict is `COMMITTED`; returns the whole. May be repeated, and by several at once.

    Returns None where it was deleted meanwhile; what this call has written after that is deleted too.

    Parameters
    ----------
    record : CheckpointRecord
        Of any node's ``save()``, or of the whole.
    """
    whole, gone = None, None
    try:
        whole, manifest = await anyio.to_thread.run_sync(merge, await _read_parts(store, record))
        await commit(store, identity, whole, manifest, latest=whole.latest)
    except StoreObjectMissing as error:
        gone = error
    # Another node may have committed the same before, and somebody deleted it: the verdict is the first thing that a deletion
    # changes. One that comes after this look finds all that was written here.
    if await store.get(verdict_key(record.group_folder)) in (DELETED, GIVEN_UP):
        await delete_all_of(store, record)
        return None
    if gone is not None:
        raise gone
    return whole


def _part_keys(record: CheckpointRecord) -> list[str]:
    return [part_key(record.group_folder, node_index) for node_index in range(record.num_nodes)]


async def _read_parts(store: Store, record: CheckpointRecord) -> list[GroupPart]:
    parts: dict[int, GroupPart] = {}
    limiter = anyio.CapacityLimiter(READS_AT_ONCE)

    async def read(node_index: int, key: str) -> None:
        async with limiter:
            part = await anyio.to_thread.run_sync(lambda text: GroupPart.from_json(text, source=key), await store.get(key))
        said = part.record
        if (said.key, said.node_index, said.num_nodes) != (record.key, node_index, record.num_nodes):
            cause = f"it is of node {said.node_index} of {said.num_nodes}, of {said.key!r}"
            raise CheckpointDamaged("put a group save together", on=key, cause=cause)
        if part.manifest.key != record.part(node_index).key:
            raise CheckpointDamaged("put a group save together", on=key, cause=f"its files are those of {part.manifest.key!r}")
        parts[node_index] = part

    async with plain_task_group() as group:
        for node_index, key in enumerate(_part_keys(record)):
            group.start_soon(read, node_index, key)
    return [parts[node_index] for node_index in sorted(parts)]


async def _decide(store: Store, key: str, wish: bytes) -> bytes:
    """Decide once and for all, together with whoever else asks; returns the decision."""
    with contextlib.suppress(StorePreconditionFailed):
        await store.put(key, Body.of(wish), if_absent=True)
    # Also after a success: a store that ignores the condition says so to whoever asks.
    return await store.get(key)


async def agree(store: Store, key: str, propose: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return what all nodes of an attempt go by: what the first of them has proposed, whatever becomes visible meanwhile."""
    if await store.head(key) is not None:
        return await store.get(key)
    return await _decide(store, key, await propose())


async def give_up_earlier(store: Store, identity: TaskIdentity) -> None:
    """Delete what earlier attempts than that of `identity` stored of groups that never became whole, which they never will then.

    To be called when a group of a later attempt is visible from which a retry may go on: then nobody would resume from them.
    """
    prefix = groups_folder(identity.pathspec)
    found: dict[str, set[str]] = defaultdict(set)
    for info in await store.list(prefix):
        found[info.key.removeprefix(prefix).partition("/")[0]].add(info.key)
    limiter = anyio.CapacityLimiter(READS_AT_ONCE)

    async def end(attempt: int, name: str, version: int, there: set[str]) -> None:
        async with limiter:
            await give_up(store, dataclasses.replace(identity, attempt=attempt), name, version, there)

    async with plain_task_group() as group:
        for leaf, there in found.items():
            known = parse_group_leaf(leaf)
            if known is not None and known[0] < identity.attempt and any(key.endswith(".json") for key in there):
                group.start_soon(end, *known, there)


async def give_up(store: Store, identity: TaskIdentity, name: str, version: int, there: Collection[str]) -> None:
    """Decide that a group save never becomes whole, unless another decision was made before, and delete what there is of it.

    Parameters
    ----------
    identity : TaskIdentity
        Of the attempt that saved it.
    there : collection of str
        The keys of what is noted of it.
    """
    key = verdict_key(f"{groups_folder(identity.pathspec)}{group_leaf(identity.attempt, name, version)}/")
    # What is decided on is only looked at: a store that ignores conditions would let it be overwritten.
    verdict = await store.get(key) if key in there else await _decide(store, key, GIVEN_UP)
    if verdict == GIVEN_UP:
        # From the name of the folder, not from what stands in it: nothing else can be deleted, whoever wrote the parts.
        await _remove_data(store, keys.data_key(identity, name, version), sorted(set(there) - {key}))


async def _remove_data(store: Store, key: str, parts: Sequence[str]) -> None:
    """Delete what lies under a key, and then the parts, which tell where it lay."""
    data = [info.key for info in await store.list(f"{key}/")]
    if data:
        await store.delete(data)
    await store.delete(parts)
