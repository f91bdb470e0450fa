"""Finding checkpoints in a store: lists, the newest, the one under a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import anyio

from ckpt_async.stores.contract import Store
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument, StoreObjectMissing
from ckpt_async.words.groups import has_group_number
from ckpt_async.words.names import encode_name
from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "Listing",
    "key_of_reference",
    "latest_keys_of",
    "latest_of",
    "list_scope",
    "list_task",
    "newest_first",
    "record_of_key",
    "resolve",
]

READS_AT_ONCE = 32


@dataclass(frozen=True)
class Listing:
    """What was found, newest first, and the records that could not be read."""

    records: tuple[CheckpointRecord, ...]
    damaged: tuple[CheckpointDamaged, ...] = ()


#: Records that have been read, by their keys and etags.
KnownRecords = dict[tuple[str, str], CheckpointRecord]


async def list_task(
    store: Store,
    pathspec: str,
    *,
    name: str | None = None,
    attempt: int | None = None,
    groups_only: bool = False,
    known: KnownRecords | None = None,
) -> Listing:
    """List the checkpoints of one task, newest first: by attempt, then by save number.

    Parameters
    ----------
    groups_only : bool
        Only group saves.
    known : dict, optional
        What need not be read again; holds what was listed afterwards.
    """
    prefix = keys.task_records_prefix(keys.check_pathspec(pathspec))

    def wanted(leaf: str) -> bool:
        fields = leaf.split(".")
        return (attempt is None or fields[0] == str(attempt)) and (
            (name is None or ".".join(fields[1:-1]) in (name, encode_name(name)))
            and not (groups_only and not has_group_number(leaf))
        )

    return await _read_all(store, prefix, wanted, name, known)


async def list_scope(
    store: Store, scope_prefix: str, *, name: str | None = None, attempt: int | None = None, groups_only: bool = False
) -> Listing:
    """List the checkpoints of all runs that share a scope, newest first: by time, and within a task by attempt and save number.

    Parameters
    ----------
    scope_prefix : str
        As `keys.scope_records_prefix` gives it.
    groups_only : bool
        Only group saves.
    """

    def wanted(leaf: str) -> bool:
        fields = leaf.split(".")
        return (
            (attempt is None or fields[1:2] == [str(attempt)])
            and (name is None or ".".join(fields[2:-1]) in (name, encode_name(name)))
            and not (groups_only and not has_group_number(leaf))
        )

    return await _read_all(store, scope_prefix, wanted, name)


def newest_first(records: Iterable[CheckpointRecord]) -> tuple[CheckpointRecord, ...]:
    """Sort checkpoints: tasks by the time of their newest one, those of a task by attempt and save number."""
    records = tuple(records)
    newest: dict[str, int] = {}
    for record in records:
        newest[record.pathspec] = max(newest.get(record.pathspec, 0), record.saved_at_unix_ns)
    return tuple(sorted(records, key=lambda record: (newest[record.pathspec], record.pathspec, *record.order), reverse=True))


async def _read_all(
    store: Store, prefix: str, wanted: Callable[[str], bool], name: str | None, known: KnownRecords | None = None
) -> Listing:
    names: list[tuple[str, str]] = []
    for info in await store.list(prefix):
        leaf = info.key.removeprefix(prefix)
        if "/" not in leaf and leaf.endswith(keys.RECORD_SUFFIX) and wanted(leaf.removesuffix(keys.RECORD_SUFFIX)):
            names.append((info.key, info.etag))
    damaged: list[CheckpointDamaged] = []
    limiter = anyio.CapacityLimiter(READS_AT_ONCE)

    found: KnownRecords = {}

    async def read(key: str, etag: str) -> None:
        async with limiter:
            try:
                found[key, etag] = CheckpointRecord.from_json(await store.get(key), source=key)
            except StoreObjectMissing:
                pass  # Deleted between the listing and the read: it is not there.
            except CheckpointDamaged as error:
                damaged.append(error)

    async with plain_task_group() as group:
        for listed in names:
            if known is not None and listed in known:
                found[listed] = known[listed]
            else:
                group.start_soon(read, *listed)
    if known is not None:
        known.clear()
        known.update(found)
    # What ours writes for one name, another program may have written for another.
    return Listing(newest_first(record for record in found.values() if name in (None, record.name)), tuple(damaged))


async def latest_of(store: Store, pointer_key: str) -> CheckpointRecord | None:
    """Follow a `latest` pointer; None where there is none.

    Raises
    ------
    CheckpointDamaged
        The pointer can't be read. That is not "no checkpoint": the caller looks at the list then.
    """
    try:
        text = await store.get(pointer_key)
    except StoreObjectMissing:
        return None
    return CheckpointRecord.from_json(text, source=pointer_key)


async def latest_keys_of(store: Store, records: Iterable[CheckpointRecord]) -> set[str]:
    """Return the keys of the checkpoints that the pointers of these checkpoints' tasks and scopes name.

    Raises
    ------
    CheckpointDamaged
        A pointer can't be read.
    """
    pointers: dict[str, None] = {}
    for record in records:
        pointers[keys.task_latest_key(record.pathspec)] = None
        pointers[keys.scope_records_prefix_of(record.key) + keys.LATEST] = None
    named = [await latest_of(store, pointer) for pointer in pointers]
    return {record.key for record in named if record is not None}


def key_of_reference(reference: object) -> str:
    """Return the data key that a user's reference names: a key, or a mapping or an object with a ``key``.

    Raises
    ------
    InvalidArgument
        It is none.
    """
    key: object = reference
    if isinstance(reference, Mapping):
        if reference.get("type") == "checkpoint-not-stored":
            raise InvalidArgument(
                "use a reference to a checkpoint",
                on=f"save {reference.get('version_id')} named {reference.get('name')!r}",
                cause=f"it is not in the store: {reference.get('reason')}",
                hint="Load another one; list() shows what there is.",
            )
        key = reference.get("key")
    elif not isinstance(reference, str):
        key = getattr(reference, "key", None)
    if not isinstance(key, str):
        raise InvalidArgument(
            "use a reference to a checkpoint",
            on=f"{type(reference).__name__} {str(reference)[:100]!r}",
            cause="it is no reference to a checkpoint",
            hint="Pass what save() or list() returned, or its 'key'.",
        )
    keys.parse_data_key(key)
    return key


async def resolve(store: Store, reference: object) -> CheckpointRecord:
    """Return the stored record of the checkpoint that a reference names.

    Raises
    ------
    InvalidArgument
        The reference is malformed.
    CheckpointNotFound
        There is no such checkpoint in this store.
    CheckpointDamaged
        Its record can't be read.
    """
    key = key_of_reference(reference)
    record = await record_of_key(store, key)
    if record is None:
        raise CheckpointNotFound(
            "load a checkpoint",
            on=key,
            cause=f"{store.traits.url} has no record of it",
            hint="It was deleted, was never stored, or is in another datastore"
            + (", or other nodes have not stored their parts of it." if has_group_number(key) else "."),
        )
    return record


async def record_of_key(store: Store, key: str) -> CheckpointRecord | None:
    """Return the stored record of the checkpoint with this data key; None where there is none.

    Raises
    ------
    CheckpointDamaged
        It can't be read.
    """
    source = keys.record_key(key)
    try:
        text = await store.get(source)
    except StoreObjectMissing:
        return None
    record = CheckpointRecord.from_json(text, source=source)
    if record.key != key:
        raise CheckpointDamaged("load a checkpoint", on=key, cause=f"its record {source!r} is of another one, {record.key!r}")
    return record
