"""Deleting a checkpoint, in the order of its commit turned round: nothing that can be found is less than whole.

A mark, that the rest may be finished by whoever calls again; of a group save, the word that it is deleted; the pointers step back;
the task's record, the record by key, the manifest and the data go; the mark goes. Each step may be repeated. Without record and
mark nothing is touched: data alone may be of a save that is on its way.

Who deletes by rules looks, behind the mark, whether the checkpoint is pinned or the latest, and takes the mark back if so, unless
it was there before: another one, past this look, may rely on it. Who pins looks for a mark behind the pin. One of two that do
it at once sees the other, so that nothing is deleted whose pin was confirmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.catalog import (
    Listing,
    key_of_reference,
    latest_keys_of,
    latest_of,
    list_scope,
    list_task,
    newest_first,
    record_of_key,
)
from ckpt_async.transfer.commit import POINTER_TRIES, advance_pointer
from ckpt_async.words import keys
from ckpt_async.words.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreUnavailable,
)
from ckpt_async.words.groups import DELETED, verdict_key
from ckpt_async.words.identity import json_hash
from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "delete_all_of",
    "delete_checkpoint",
    "delete_unless_wanted",
    "is_leaving",
    "is_of_task",
    "is_visible",
    "mend_pointer",
    "successor",
]

_DELETE = "delete a checkpoint"


@dataclass(frozen=True)
class _Pointer:
    """A `latest` pointer: its key, what it may name instead, and where the record of such a one stands."""

    key: str
    candidates: Callable[[], Awaitable[Listing]]
    record_key: Callable[[CheckpointRecord], str]


async def delete_checkpoint(store: Store, reference: object) -> str:
    """Delete what a reference names, and nothing else; returns its data key. A call that was interrupted is finished by another.

    Parameters
    ----------
    reference : str, mapping or object
        See `ckpt_async.transfer.catalog.resolve`.

    Raises
    ------
    InvalidArgument
        The reference is malformed.
    CheckpointNotFound
        There is no such checkpoint in this store.
    CheckpointDamaged
        Its record can't be read, and the reference has not its content either. Nothing was deleted.
    """
    record = await _record_of_doomed(store, reference)
    await delete_all_of(store, record)
    return record.key


async def delete_all_of(store: Store, record: CheckpointRecord) -> None:
    """Delete a checkpoint, whatever of it there is. May be repeated, and done by several at once.

    Parameters
    ----------
    record : CheckpointRecord
        Of the checkpoint; of a group save, that of one node's part will do.
    """
    # The pin first: a mark beside a pin is one that rules have left, and may be taken back.
    await store.delete([keys.pin_key(record.key)])
    await _delete_marked(store, record, interrupted=await _mark(store, record))


async def delete_unless_wanted(
    store: Store, record: CheckpointRecord, begin: Callable[[CheckpointRecord], None] = lambda _: None
) -> bool:
    """Delete a checkpoint as `delete_all_of` does, unless it is pinned or a pointer names it; returns whether it is deleted.

    What an interrupted call has begun to delete goes in any case: nobody could load it.

    Parameters
    ----------
    begin : callable
        Called with the record before anything of it goes.
    """
    interrupted = await _mark(store, record)
    if await _is_wanted(store, record):
        # A mark that was there before may be that of another one who deletes in this moment: whoever pins must see it.
        if not interrupted:
            await store.delete([keys.deletion_key(record.key)])
        return False
    begin(record)
    await _delete_marked(store, record, interrupted=interrupted)
    return True


async def _mark(store: Store, record: CheckpointRecord) -> bool:
    """Note that a checkpoint is being deleted; returns whether that was noted before."""
    mark = keys.deletion_key(record.key)
    # The look is for stores that ignore conditions.
    interrupted = await store.head(mark) is not None
    try:
        await store.put(mark, Body.of(record.to_json()), if_absent=True)
    except StorePreconditionFailed:
        return True
    return interrupted


async def is_visible(store: Store, record: CheckpointRecord) -> bool:
    """Return whether a checkpoint can be listed and loaded: whether a deletion has taken nothing of it yet."""
    for stored in (keys.record_key(record.key), keys.task_record_key_of(record.key, record.pathspec)):
        if await store.head(stored) is None:
            return False
    if record.group:
        # With the word that it is deleted, a node that commits it once more would have it deleted.
        verdict = verdict_key(record.group_folder)
        return await store.head(verdict) is None or await store.get(verdict) != DELETED
    return True


async def is_leaving(store: Store, record: CheckpointRecord) -> bool:
    """Return whether a checkpoint is being deleted, or has been."""
    if await store.head(keys.deletion_key(record.key)) is not None:
        return True
    for stored in (keys.record_key(record.key), keys.task_record_key_of(record.key, record.pathspec)):
        if await store.head(stored) is not None:
            return False
    return True


def is_of_task(record: CheckpointRecord, pathspec: str) -> bool:
    """Return whether a checkpoint is a task's own, by its record and by its key. A list may hold copies of other tasks' records."""
    if record.pathspec != pathspec:
        return False
    parsed = keys.parse_data_key(record.key)
    flow, _, step, _ = pathspec.split("/")
    return (flow, step) == (parsed.flow, parsed.step) and json_hash(pathspec).startswith(parsed.pathspec_hash)


async def _is_wanted(store: Store, record: CheckpointRecord) -> bool:
    if not await is_visible(store, record):
        return False
    if await store.head(keys.pin_key(record.key)) is not None:
        return True
    return record.key in await latest_keys_of(store, [record])


async def _delete_marked(store: Store, record: CheckpointRecord, *, interrupted: bool) -> None:
    key, prefix = record.key, keys.scope_records_prefix_of(record.key)
    mark, task_record = keys.deletion_key(key), keys.task_record_key_of(key, record.pathspec)
    of_task, of_scope = _task_pointer(store, record.pathspec), _scope_pointer(store, prefix)
    if record.group:
        # It stays: a node that is in the middle of committing the same group looks at it when it has done so.
        await store.put(verdict_key(record.group_folder), Body.of(DELETED))
    await _step_back(store, of_task, key, may_be_lost=interrupted)
    await _step_back(store, of_scope, key, may_be_lost=interrupted)
    # Again behind each record: as long as that was there, whoever deleted another one may have let the pointer step back to this.
    await store.delete([task_record])
    await _step_back(store, of_task, key)
    await store.delete([keys.record_key(key)])
    await _step_back(store, of_scope, key)
    await store.delete([keys.manifest_key(key), keys.pin_key(key)])
    if record.group:
        noted = {info.key for info in await store.list(record.group_folder)}
        await store.delete(sorted(noted - {verdict_key(record.group_folder)}))
    # Of either format. The list first: on a disk, what lies below the key of an archive is nothing.
    await store.delete([info.key for info in await store.list(key + "/")])
    if await store.head(key) is not None:
        await store.delete([key])
    await store.delete([mark])


def _task_pointer(store: Store, pathspec: str) -> _Pointer:
    return _Pointer(
        keys.task_latest_key(pathspec),
        lambda: list_task(store, pathspec),
        lambda other: keys.task_record_key_of(other.key, other.pathspec),
    )


def _scope_pointer(store: Store, prefix: str) -> _Pointer:
    return _Pointer(prefix + keys.LATEST, lambda: list_scope(store, prefix), lambda other: keys.record_key(other.key))


async def mend_pointer(store: Store, key: str) -> bool:
    """Let a `latest` pointer name the newest that a retry may resume from, where it names nothing that is there, or an older one;
    it goes where there is none. Returns whether it was changed.

    Parameters
    ----------
    key : str
        Of the pointer.
    """
    prefix = key.removesuffix(keys.LATEST)
    if key.startswith(keys.ALL_TASK_RECORDS):
        pointer = _task_pointer(store, prefix.removeprefix(keys.ALL_TASK_RECORDS).rstrip("/"))
    else:
        pointer = _scope_pointer(store, prefix)
    before = await store.head(key)
    try:
        named = await latest_of(store, key)
    except CheckpointDamaged:
        named = None
    if named is not None and await store.head(pointer.record_key(named)) is None:
        await _step_back(store, pointer, named.key)
    following = successor((await pointer.candidates()).records, set())
    if following is not None:
        await advance_pointer(store, key, following)
    elif before is not None and named is None:
        await store.delete([key])
    return await store.head(key) != before


async def _record_of_doomed(store: Store, reference: object) -> CheckpointRecord:
    key = key_of_reference(reference)
    damage = None
    try:
        record = await record_of_key(store, key)
    except CheckpointDamaged as error:
        record, damage = None, error
    if record is None:
        record = await _marked(store, key)
    if record is None and damage is not None:
        # What list() has returned is the other copy of the record.
        if not isinstance(reference, Mapping) or "pathspec" not in reference:
            raise damage
        record = CheckpointRecord.from_dict(dict(reference), source="the reference")
    if record is None:
        raise CheckpointNotFound(
            _DELETE,
            on=key,
            cause=f"{store.traits.url} has no record of it",
            hint="It was deleted before, is not stored yet, or is in another datastore.",
        )
    if not is_of_task(record, record.pathspec):
        raise CheckpointDamaged(
            _DELETE, on=key, cause=f"its record names a task that has not saved it, {record.pathspec!r}; nothing was deleted"
        )
    return record


async def _marked(store: Store, key: str) -> CheckpointRecord | None:
    """Return the record that an interrupted deletion has left."""
    source = keys.deletion_key(key)
    try:
        record = CheckpointRecord.from_json(await store.get(source), source=source)
    except StoreObjectMissing:
        return None
    return record if record.key == key else None


def successor(records: Iterable[CheckpointRecord], gone: set[str]) -> CheckpointRecord | None:
    """Return what a pointer names once the checkpoints with the keys `gone` are none: the newest that a retry may resume from."""
    return next(iter(newest_first(record for record in records if record.latest and record.key not in gone)), None)


async def _step_back(store: Store, pointer: _Pointer, key: str, *, may_be_lost: bool = False) -> None:
    """Have the pointer name another checkpoint than `key`, or be gone; one that names another already stays as it is.

    `may_be_lost`: an earlier call may have deleted it, and died before it could see that a commit had moved it meanwhile.
    """
    gone, moved_to = {key}, None
    for _ in range(POINTER_TRIES):
        info = await store.head(pointer.key)
        if info is None:
            following = successor((await pointer.candidates()).records, gone) if may_be_lost else None
            if following is None:
                return
            await advance_pointer(store, pointer.key, following)
            may_be_lost, moved_to = False, following.key
            continue
        try:
            named = CheckpointRecord.from_json(await store.get(pointer.key, if_match=info.etag), source=pointer.key)
            if named.key == moved_to and await store.head(pointer.record_key(named)) is None:
                gone.add(named.key)  # It was deleted meanwhile, by somebody who saw the pointer at its old place.
            if named.key not in gone:
                return
            following = successor((await pointer.candidates()).records, gone)
            if following is None:
                await store.delete([pointer.key])
                # A deletion has no condition: if a commit has moved the pointer in this moment, its record is there to be seen.
                following = successor((await pointer.candidates()).records, gone)
                if following is not None:
                    await advance_pointer(store, pointer.key, following)
            else:
                await store.put(pointer.key, Body.of(following.to_json()), if_match=info.etag)
            moved_to = None if following is None else following.key
        except CheckpointDamaged:
            return  # It names nothing.
        except (StorePreconditionFailed, StoreObjectMissing):
            continue  # Another writer was faster: look again.
    raise StoreUnavailable(
        "move a latest pointer back",
        on=pointer.key,
        cause=f"other writers changed it {POINTER_TRIES} times meanwhile",
        hint="Delete the checkpoint again: what is left of it goes then.",
    )
