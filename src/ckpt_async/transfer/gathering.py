"""Putting the parts of a group save together, through the store alone.

A node uploads its files, then notes its part, then looks which parts are there: the node whose part is the last sees all of them,
for a store shows at once what was written. Two nodes may see that in the same moment: what they commit is made of the parts alone,
so both write the same. Before that, the commit is decided on, by a conditional write: an attempt that cleans up after an earlier
one decides against it under the same key, so that what is being deleted can't become visible.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.groups import plain_task_group
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StorePreconditionFailed
from ckpt_async.words.groups import groups_folder, node_folder, part_key
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.names import decode_name, encode_name
from ckpt_async.words.records import CheckpointRecord

__all__ = ["agree", "give_up_earlier", "merge", "store_part"]

COMMITTED = b"committed"
GIVEN_UP = b"given up"
VERDICT = "verdict"

READS_AT_ONCE = 32

_LEAF = re.compile(r"([0-9]{1,18})\.((?:[A-Za-z0-9_-]|~[0-9A-F]{2})+)\.([0-9]{1,18})")


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


async def store_part(store: Store, identity: TaskIdentity, record: CheckpointRecord, manifest: Manifest) -> bool:
    """Note a part whose data are all in the store, and make the whole visible where it is the last one. May be repeated.

    Parameters
    ----------
    record : CheckpointRecord
        Of this node's ``save()``.
    manifest : Manifest
        Of this node's files.

    Returns
    -------
    bool
        Whether the whole is visible. If not, parts of other nodes are to come; or a later attempt has given it up, and nothing of
        it remains.

    Raises
    ------
    CheckpointDamaged
        A part can't be read, or is of another group.
    """
    text = await anyio.to_thread.run_sync(GroupPart(record, manifest).to_json)
    folder = record.group_folder
    await store.put(part_key(folder, record.node_index), Body.of(text))
    there = {info.key for info in await store.list(folder)}
    verdict = await store.get(folder + VERDICT) if folder + VERDICT in there else b""
    wanted = [part_key(folder, node_index) for node_index in range(record.num_nodes)]
    if not verdict and there.issuperset(wanted):
        verdict = await _decide(store, folder + VERDICT, COMMITTED)
    if verdict == GIVEN_UP:
        await _remove_data(store, record.part(record.node_index).key, [part_key(folder, record.node_index)])
        return False
    if verdict != COMMITTED:
        return False
    whole, merged = await anyio.to_thread.run_sync(merge, await _read_parts(store, record, wanted))
    await commit(store, identity, whole, merged, latest=whole.latest)
    return True


async def _read_parts(store: Store, record: CheckpointRecord, wanted: Sequence[str]) -> list[GroupPart]:
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
        for node_index, key in enumerate(wanted):
            group.start_soon(read, node_index, key)
    return [parts[node_index] for node_index in sorted(parts)]


async def _decide(store: Store, key: str, wish: bytes) -> bytes:
    """Decide once and for all, together with whoever else asks; returns the decision."""
    try:
        await store.put(key, Body.of(wish), if_absent=True)
        return wish
    except StorePreconditionFailed:
        return await store.get(key)


async def agree(store: Store, key: str, propose: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return what all nodes of an attempt go by: what the first of them has proposed, whatever becomes visible meanwhile."""
    if await store.head(key) is not None:
        return await store.get(key)
    return await _decide(store, key, await propose())


async def give_up_earlier(store: Store, identity: TaskIdentity) -> None:
    """Delete what earlier attempts than that of `identity` stored of groups that never became whole, which they never will then.

    To be called when a group of a later attempt is visible: then nobody would resume from them.
    """
    found: dict[str, list[str]] = defaultdict(list)
    prefix = groups_folder(identity.pathspec)
    for info in await store.list(prefix):
        leaf, _, inner = info.key.removeprefix(prefix).partition("/")
        if inner.endswith(".json"):
            found[leaf].append(info.key)
    for leaf, parts in found.items():
        known = _LEAF.fullmatch(leaf)
        if known is None or int(known[1]) >= identity.attempt or encode_name(name := decode_name(known[2])) != known[2]:
            continue
        if await _decide(store, f"{prefix}{leaf}/{VERDICT}", GIVEN_UP) == GIVEN_UP:
            # From the name of the folder, not from what stands in it: nothing else can be deleted, whoever wrote the parts.
            of_attempt = dataclasses.replace(identity, attempt=int(known[1]))
            await _remove_data(store, keys.data_key(of_attempt, name, int(known[3])), parts)


async def _remove_data(store: Store, key: str, parts: Sequence[str]) -> None:
    """Delete what lies under a key, and then the parts, which tell where it lay."""
    data = [info.key for info in await store.list(f"{key}/")]
    if data:
        await store.delete(data)
    await store.delete(parts)
