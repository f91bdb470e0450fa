"""Finding checkpoints in a store: lists, the newest, the one under a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from ckpt_async.stores.contract import Body, Store
from ckpt_async.transfer.gathering import agree
from ckpt_async.transfer.groups import plain_task_group
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument, StoreObjectMissing
from ckpt_async.words.groups import is_group_number, resume_key
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.names import encode_name
from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "Listing",
    "agreed_group",
    "key_of_reference",
    "latest_of",
    "list_scope",
    "list_task",
    "mark_damaged",
    "newest_first",
    "part_of",
    "record_of_key",
    "resolve",
    "visible",
]

READS_AT_ONCE = 32

#: The mark, beside the parts of a group save, that one of them can't be loaded.
DAMAGED = "damaged"


@dataclass(frozen=True)
class Listing:
    """What was found, newest first, and the records that could not be read."""

    records: tuple[CheckpointRecord, ...]
    damaged: tuple[CheckpointDamaged, ...] = ()


async def list_task(store: Store, pathspec: str, *, name: str | None = None, attempt: int | None = None) -> Listing:
    """List the checkpoints of one task, newest first: by attempt, then by save number."""
    prefix = keys.task_records_prefix(keys.check_pathspec(pathspec))

    def wanted(leaf: str) -> bool:
        fields = leaf.split(".")
        return (attempt is None or fields[0] == str(attempt)) and (
            name is None or ".".join(fields[1:-1]) in (name, encode_name(name))
        )

    return await _read_all(store, prefix, wanted, name)


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
            and not (groups_only and not _has_group_number(leaf))
        )

    return await _read_all(store, scope_prefix, wanted, name)


def newest_first(records: Iterable[CheckpointRecord]) -> tuple[CheckpointRecord, ...]:
    """Sort checkpoints: tasks by the time of their newest one, those of a task by attempt and save number."""
    records = tuple(records)
    newest: dict[str, int] = {}
    for record in records:
        newest[record.pathspec] = max(newest.get(record.pathspec, 0), record.saved_at_unix_ns)
    return tuple(sorted(records, key=lambda record: (newest[record.pathspec], record.pathspec, *record.order), reverse=True))


def _has_group_number(leaf: str) -> bool:
    number = leaf.rpartition(".")[2]
    return number.isdecimal() and is_group_number(int(number))


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
        if attempt.isdecimal() and _has_group_number(leaf):
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


async def _read_all(store: Store, prefix: str, wanted: Callable[[str], bool], name: str | None) -> Listing:
    names = []
    for info in await store.list(prefix):
        leaf = info.key.removeprefix(prefix)
        if "/" not in leaf and leaf.endswith(keys.RECORD_SUFFIX) and wanted(leaf.removesuffix(keys.RECORD_SUFFIX)):
            names.append(info.key)
    records: list[CheckpointRecord] = []
    damaged: list[CheckpointDamaged] = []
    limiter = anyio.CapacityLimiter(READS_AT_ONCE)

    async def read(key: str) -> None:
        async with limiter:
            try:
                records.append(CheckpointRecord.from_json(await store.get(key), source=key))
            except StoreObjectMissing:
                pass  # Deleted between the listing and the read: it is not there.
            except CheckpointDamaged as error:
                damaged.append(error)

    async with plain_task_group() as group:
        for key in names:
            group.start_soon(read, key)
    # What ours writes for one name, another program may have written for another.
    return Listing(newest_first(record for record in records if name in (None, record.name)), tuple(damaged))


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
                cause=f"it never reached the store: {reference.get('reason')}",
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
            + (", or other nodes have not stored their parts of it." if _has_group_number(key) else "."),
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
