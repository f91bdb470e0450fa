"""Finding the saves that a gang made together, and agreeing on the one that it goes on from."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

import anyio

from ckpt_async.stores.contract import Body, Store
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.catalog import READS_AT_ONCE, list_scope, list_task
from ckpt_async.transfer.gathering import GroupPart, agree, store_part
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument, StoreObjectMissing, from_wire
from ckpt_async.words.groups import COMMITTED, damaged_key, groups_folder, has_group_number, part_key, resume_key, verdict_key
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord

__all__ = ["agreed_group", "begun_with", "mark_damaged", "part_of", "visible"]

#: So many attempts behind that of the newest group save may have decided what they begin with. A task has a handful of attempts.
LATER_ATTEMPTS = 5

BY_HAND = "Load one by hand: load_policy='none', and load(reference, path, node=...). Or delete it."


async def agreed_group(
    store: Store, identity: TaskIdentity, policy: str, passed_by: Callable[[CheckpointDamaged], None] = lambda _: None
) -> CheckpointRecord | None:
    """Return the group save that all nodes of an attempt go on from: the newest one that was visible to the node that asked first,
    of the task, with ``"eager"`` and where the task has nothing to resume from, of its scope; None where there was none.

    Without that, a group that becomes whole while the gang starts would be loaded by some nodes and not by others. Its record is
    agreed on and not its key: what happens to the stored record meanwhile can't part them either.

    Parameters
    ----------
    passed_by : callable
        Gets, on every node, each damaged group that the first one has found and that is not gone on from.

    Raises
    ------
    CheckpointDamaged
        What was agreed on can't be read.
    """

    async def propose() -> bytes:
        damages: list[CheckpointDamaged] = []
        record = await _newest_group_of_task(store, identity, damages)
        if record is None and policy == "eager" and not await _has_other_saves(store, identity, damages):
            record = await _newest_group_of_scope(store, identity, damages)
        said = json.loads(record.to_json()) if record is not None else None
        return json.dumps({"record": said, "passed_by": [damage.to_wire() for damage in damages]}).encode()

    key = resume_key(identity.pathspec, identity.attempt)
    text = await agree(store, key, propose)
    try:
        agreed = json.loads(text)
        damages = [from_wire(damage) for damage in agreed["passed_by"]]
        said = agreed["record"]
        record = CheckpointRecord.from_json(json.dumps(said).encode(), source=key) if said is not None else None
    except (CheckpointDamaged, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointDamaged(
            "read what the nodes of this attempt go on from", on=key, cause=str(error), hint="The next attempt decides anew."
        ) from error
    for damage in damages:
        if isinstance(damage, CheckpointDamaged):
            passed_by(damage)
    return record


async def _newest_group_of_task(store: Store, identity: TaskIdentity, damages: list[CheckpointDamaged]) -> CheckpointRecord | None:
    await _finish_commits(store, identity, damages)
    prefix = keys.task_records_prefix(identity.pathspec)
    numbered: list[tuple[int, int, str]] = []
    for info in await store.list(prefix):
        leaf = info.key.removeprefix(prefix).removesuffix(keys.RECORD_SUFFIX)
        attempt = leaf.split(".")[0]
        if attempt.isdecimal() and has_group_number(leaf):
            numbered.append((int(attempt), int(leaf.rpartition(".")[2]), leaf))
    for _, _, leaf in sorted(numbered, reverse=True):
        record = await _record_of_group(store, identity, leaf, damages)
        if record is not None and await _may_go_on_from(store, record, damages):
            return record
    return None


async def _record_of_group(
    store: Store, identity: TaskIdentity, leaf: str, damages: list[CheckpointDamaged]
) -> CheckpointRecord | None:
    """Read the task's record of a group save; where it is damaged, the same text by key."""
    first: CheckpointDamaged | None = None
    by_key = f"{keys.scope_records_prefix(identity)}{identity.pathspec_hash}.{leaf}{keys.RECORD_SUFFIX}"
    for source in (f"{keys.task_records_prefix(identity.pathspec)}{leaf}{keys.RECORD_SUFFIX}", by_key):
        try:
            record = CheckpointRecord.from_json(await store.get(source), source=source)
        except StoreObjectMissing:
            break  # Deleted in this moment; or the damaged one is all that there is.
        except CheckpointDamaged as damage:
            first = first or damage
            continue
        return record
    if first is not None:
        damages.append(first)
    return None


async def _has_other_saves(store: Store, identity: TaskIdentity, damages: list[CheckpointDamaged]) -> bool:
    """Return whether the nodes of this task have stored by themselves what a retry may resume from."""
    listing = await list_task(store, identity.pathspec)
    known = {damage.on for damage in damages}
    damages += [damage for damage in listing.damaged if damage.on not in known]
    return any(record.latest and not record.group for record in listing.records)


async def _newest_group_of_scope(store: Store, identity: TaskIdentity, damages: list[CheckpointDamaged]) -> CheckpointRecord | None:
    listing = await list_scope(store, keys.scope_records_prefix(identity), groups_only=True)
    damages += listing.damaged
    for record in listing.records:
        if record.pathspec != identity.pathspec and await _may_go_on_from(store, record, damages):
            return record
    return None


async def _may_go_on_from(store: Store, record: CheckpointRecord, damages: list[CheckpointDamaged]) -> bool:
    if not (record.group and record.latest):
        return False
    if await store.head(damaged_key(record.group_folder)) is None:
        return True
    cause = "a node could not load its part of it"
    damages.append(CheckpointDamaged("go on from a group save", on=record.key, cause=cause, hint=BY_HAND))
    return False


async def _finish_commits(store: Store, identity: TaskIdentity, damages: list[CheckpointDamaged]) -> None:
    """Make the groups of earlier attempts visible of which all parts are stored, and whose last node was lost before it could."""
    if identity.attempt == 0:
        return
    prefix = groups_folder(identity.pathspec)
    inside: dict[str, set[str]] = defaultdict(set)
    for info in await store.list(prefix):
        leaf, _, inner = info.key.removeprefix(prefix).partition("/")
        inside[leaf].add(inner)
    of_task = keys.task_records_prefix(identity.pathspec)
    listed = {info.key.removeprefix(of_task).removesuffix(keys.RECORD_SUFFIX) for info in await store.list(of_task)}
    for leaf in sorted(leaf for leaf in inside.keys() - listed if part_key("", 0) in inside[leaf]):
        try:
            await _finish_commit(store, identity, f"{prefix}{leaf}/", inside[leaf])
        except StoreObjectMissing:
            continue  # It is being given up, or deleted.
        except CheckpointDamaged as damage:
            damages.append(damage)


async def _finish_commit(store: Store, identity: TaskIdentity, folder: str, there: Collection[str]) -> None:
    source = part_key(folder, 0)
    part = GroupPart.from_json(await store.get(source), source=source)
    record = part.record
    of_attempt = dataclasses.replace(identity, attempt=record.attempt)
    if record.group_folder != folder or record.key != keys.data_key(of_attempt, record.name, record.version_id):
        raise CheckpointDamaged("put a group save together", on=source, cause=f"it is of {record.key!r}")
    if record.attempt >= identity.attempt or any(part_key("", node) not in there for node in range(record.num_nodes)):
        return
    if verdict_key("") in there and await store.get(verdict_key(folder)) != COMMITTED:
        return
    # A deletion that was interrupted has taken the records first: that one is finished by whoever calls it again.
    if await store.head(keys.deletion_key(record.key)) is None:
        await store_part(store, of_attempt, record, part.manifest)


async def begun_with(store: Store, records: Iterable[CheckpointRecord]) -> set[str]:
    """Return the keys of the group saves that nodes may be loading: those that attempts have agreed on, of which no group save is
    visible yet. Once one is, all nodes have begun.

    Parameters
    ----------
    records : iterable of CheckpointRecord
        All group saves of a task, or of several; what else is among them does not count.
    """
    newest: dict[str, int] = {}
    for record in records:
        if record.group:
            newest[record.pathspec] = max(newest.get(record.pathspec, 0), record.attempt)
    found = set()
    for pathspec, attempt in newest.items():
        for later in range(attempt + 1, attempt + 1 + LATER_ATTEMPTS):
            try:
                said = json.loads(await store.get(resume_key(pathspec, later)))["record"]
            except (StoreObjectMissing, KeyError, TypeError, ValueError):
                continue  # There is no such attempt, or none that could begin with what can't be read.
            if isinstance(said, dict):
                found.add(str(said.get("key")))
    return found


async def mark_damaged(store: Store, record: CheckpointRecord) -> None:
    """Note that a node could not load its part of a group save: no later attempt goes on from it. Nothing is noted of one that was
    deleted meanwhile.
    """
    if await store.head(keys.record_key(record.key)) is not None:
        await store.put(damaged_key(record.group_folder), Body.of(b"damaged"))


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
