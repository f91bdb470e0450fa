"""Mending what a diagnosis has found, one finding at a time. Before anything is changed, it is looked at once more: what was found
may have been put right meanwhile, or have been under way.
"""

from __future__ import annotations

import contextlib

from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.deletion import delete_all_of, delete_unless_wanted, mend_pointer
from ckpt_async.transfer.diagnosis import Finding, Kind
from ckpt_async.transfer.gathering import GroupPart, give_up, store_part
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing
from ckpt_async.words.groups import COMMITTED, DELETED, GIVEN_UP, parse_group_leaf, part_key, verdict_key
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord

__all__ = ["mend"]


async def mend(store: Store, finding: Finding) -> bool:
    """Do what the `fix` of a finding says; returns whether anything was to be done still.

    Raises
    ------
    StoreError, CheckpointDamaged
        It could not be done; it may be repeated.
    """
    if not finding.fix:
        return False
    if finding.kind == Kind.LATEST:
        return await mend_pointer(store, finding.on)
    if finding.kind == Kind.ABANDONED_UPLOAD:
        await store.abort_multipart(finding.on, finding.upload_id)
        return True
    if finding.kind == Kind.INTERRUPTED_DELETION:
        return await _finish_deletion(store, finding.on)
    if finding.kind == Kind.ORPHAN:
        return await _delete_orphan(store, finding.on)
    if finding.kind == Kind.RECORD_COPY:
        return await _copy_record(store, finding)
    if finding.kind == Kind.NO_DATA:
        return await _delete_without_data(store, finding)
    return await _end_group(store, finding.on)


async def _records(store: Store, finding: Finding) -> tuple[CheckpointRecord | None, CheckpointRecord | None]:
    """Return what can be read of the two records of a checkpoint: that by key, and that in the list of its task."""
    by_key = await _read(store, keys.record_key(finding.on))
    by_task = await _read(store, keys.task_record_key_of(finding.on, finding.pathspec))
    return by_key, by_task


async def _read(store: Store, source: str) -> CheckpointRecord | None:
    with contextlib.suppress(StoreObjectMissing, CheckpointDamaged):
        return CheckpointRecord.from_json(await store.get(source), source=source)
    return None


async def _finish_deletion(store: Store, key: str) -> bool:
    record = await _read(store, keys.deletion_key(key))
    if record is None:
        record = await _read(store, keys.record_key(key))
    if record is None or record.key != key:
        if await store.head(keys.deletion_key(key)) is None:
            return False
        # A mark that says nothing, and no record: what it stands beside is data of no checkpoint.
        await _delete_data(store, key)
        await store.delete([keys.deletion_key(key)])
        return True
    return await delete_unless_wanted(store, record)


async def _delete_orphan(store: Store, key: str) -> bool:
    if await store.head(keys.record_key(key)) is not None:
        return False  # It has been committed meanwhile: this record comes first.
    await _delete_data(store, key)
    return True


async def _delete_data(store: Store, key: str) -> None:
    await store.delete([info.key for info in await store.list(f"{key}/")])
    if await store.head(key) is not None:
        await store.delete([key])
    # Last: as long as it is there, the attempt of a push is taken.
    await store.delete([keys.manifest_key(key)])


async def _copy_record(store: Store, finding: Finding) -> bool:
    key = finding.on
    if await store.head(keys.deletion_key(key)) is not None:
        return False
    by_key, by_task = await _records(store, finding)
    record = by_key or by_task
    if record is None or (by_key is not None and by_task is not None):
        return False
    text = Body.of(record.to_json())
    await store.put(keys.record_key(key), text)
    await store.put(keys.task_record_key_of(key, record.pathspec), text)
    return True


async def _delete_without_data(store: Store, finding: Finding) -> bool:
    key = finding.on
    by_key, by_task = await _records(store, finding)
    record = by_key or by_task
    if record is None or await store.head(key) is not None or await store.list(f"{key}/"):
        return False
    await delete_all_of(store, record)
    return True


async def _end_group(store: Store, folder: str) -> bool:
    pathspec, _, leaf = folder.removeprefix(keys.ALL_GROUPS).rstrip("/").rpartition("/")
    parsed = parse_group_leaf(leaf)
    there = {info.key for info in await store.list(folder)}
    parts = sorted(key for key in there if key.endswith(".json"))
    if parsed is None or not parts:
        return False
    part = GroupPart.from_json(await store.get(parts[0]), source=parts[0])
    record = part.record
    if record.group_folder != folder:
        raise CheckpointDamaged("mend a group save", on=parts[0], cause=f"the part is of another one, {record.group_folder}")
    at = keys.parse_data_key(record.key)
    flow, run, step, task = pathspec.split("/")
    identity = TaskIdentity(flow, run, step, task, record.attempt, at.scope, at.task_identifier)
    verdict = await store.get(verdict_key(folder)) if verdict_key(folder) in there else b""
    if verdict == DELETED:
        await delete_all_of(store, record)
    elif verdict != GIVEN_UP and there.issuperset(part_key(folder, node) for node in range(record.num_nodes)):
        # As the node would have done it that noted the last part.
        await store_part(store, identity, record, part.manifest)
    elif verdict == COMMITTED:
        return False  # It has parts no more, and a deletion that is under way, or was interrupted, sees to it.
    else:
        await give_up(store, identity, parsed[1], parsed[2], there)
    return True
