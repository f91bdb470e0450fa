"""Looking through a whole store: what there is of each checkpoint, counted while it is listed, so that memory grows with the number
of checkpoints and not with that of their files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace

from ckpt_async.stores.contract import ObjectInfo, Store, UnfinishedUpload
from ckpt_async.transfer.browsing import at_once, each_object
from ckpt_async.transfer.catalog import READS_AT_ONCE
from ckpt_async.transfer.shape import check_shape
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument, StoreObjectMissing
from ckpt_async.words.identity import json_hash
from ckpt_async.words.records import CheckpointRecord

__all__ = [
    "DAMAGED",
    "GOOD",
    "MISSING",
    "Checkpoint",
    "CheckpointFacts",
    "GroupFacts",
    "Pointer",
    "Stored",
    "Survey",
    "checkpoint_of",
    "checkpoint_of_task",
    "data_key_in",
    "survey",
]

#: Checkpoints whose files are compared with their manifest at a time: each of them is in memory meanwhile.
DEEP_AT_ONCE = 8

#: States of a stored text.
GOOD, MISSING, DAMAGED = "good", "missing", "damaged"

#: What all keys of one checkpoint have in common, whichever of them are there: flow, step, and ``HASH.ATTEMPT.NAME.VERSION``.
Checkpoint = tuple[str, str, str]


@dataclass
class Stored:
    """Objects of one kind: how many, how large, and when the newest was stored, where the store tells."""

    objects: int = 0
    size_bytes: int = 0
    newest_unix_s: float | None = None

    def add(self, info: ObjectInfo) -> None:
        """Count one more."""
        self.objects += 1
        self.size_bytes += info.size_bytes
        if info.stored_unix_s is not None:
            self.newest_unix_s = max(self.newest_unix_s or 0.0, info.stored_unix_s)


@dataclass
class CheckpointFacts:
    """What there is of one checkpoint.

    Attributes
    ----------
    key : str
        Of its data.
    data, manifest, record, task_record, mark : Stored
        What was listed; the mark is that of a deletion.
    pathspec, leaf : str
        Its task, as far as that is known, and ``ATTEMPT.NAME.VERSION``.
    read : CheckpointRecord or None
        From whichever of its records can be read; without the user's metadata.
    by_key, by_task : str
        The state of its two records.
    problems : tuple of str
        What it lacks, beyond a record.
    """

    key: str = ""
    data: Stored = field(default_factory=Stored)
    manifest: Stored = field(default_factory=Stored)
    record: Stored = field(default_factory=Stored)
    task_record: Stored = field(default_factory=Stored)
    mark: Stored = field(default_factory=Stored)
    pathspec: str = ""
    leaf: str = ""
    read: CheckpointRecord | None = None
    by_key: str = MISSING
    by_task: str = MISSING
    problems: tuple[str, ...] = ()


@dataclass
class GroupFacts:
    """What is noted of a group save: the names of the objects in its folder, and when the newest was stored."""

    folder: str
    pathspec: str
    leaf: str
    names: list[str] = field(default_factory=list)
    stored: Stored = field(default_factory=Stored)


@dataclass
class Pointer:
    """A `latest` pointer.

    Attributes
    ----------
    key : str
        Of the object.
    state : str
        `GOOD` or `DAMAGED`.
    names : CheckpointRecord or None
        What it names.
    """

    key: str
    state: str = GOOD
    names: CheckpointRecord | None = None


@dataclass
class Survey:
    """What was found in a store.

    Attributes
    ----------
    uploads : list of UnfinishedUpload or None
        None where the store can't tell.
    unfinished : str
        What becomes of them, as in `StoreTraits`.
    tells_ages : bool
        Whether it tells of all that was listed when that was stored.
    """

    checkpoints: dict[Checkpoint, CheckpointFacts] = field(default_factory=dict)
    groups: dict[Checkpoint, GroupFacts] = field(default_factory=dict)
    pointers: dict[str, Pointer] = field(default_factory=dict)
    uploads: list[UnfinishedUpload] | None = None
    unfinished: str = ""
    tells_ages: bool = True

    def of(self, checkpoint: Checkpoint) -> CheckpointFacts:
        """Return the facts of a checkpoint; new ones for one that was not seen before."""
        return self.checkpoints.setdefault(checkpoint, CheckpointFacts(leaf=checkpoint[2].partition(".")[2]))


def checkpoint_of(data_key: str) -> Checkpoint:
    """Return which checkpoint a data key is of. Raises InvalidArgument."""
    parsed = keys.parse_data_key(data_key)
    return parsed.flow, parsed.step, data_key.rpartition("/")[2]


def checkpoint_of_task(pathspec: str, leaf: str) -> Checkpoint:
    """Return which checkpoint it is that the task `pathspec` has under ``ATTEMPT.NAME.VERSION``."""
    flow, _, step, _ = pathspec.split("/")
    return flow, step, f"{json_hash(pathspec)[:8]}.{leaf}"


def data_key_in(key: str, prefix: str, suffix: str = "") -> str:
    """Return the data key that belongs to what stands under `key`, in the place `prefix`; empty where it belongs to none."""
    parts = key.removeprefix(prefix).split("/")
    if suffix:
        parts = [*parts[:-1], parts[-1].removesuffix(suffix)] if key.endswith(suffix) and len(parts) == 5 else []
    found = keys.ALL_DATA + "/".join(parts[:5])
    try:
        keys.parse_data_key(found)
    except InvalidArgument:
        return ""
    return found


async def survey(store: Store, *, deep: bool, on_looked: Callable[[int, int], None]) -> Survey:
    """Look through a store.

    Parameters
    ----------
    deep : bool
        Whether what a checkpoint consists of is compared with its manifest: four more requests for each.
    on_looked : callable
        Called with how many checkpoints have been looked at since the call before, and how many there are.

    Raises
    ------
    StoreError
        The store does not answer, or refuses.
    """
    found = Survey()
    # What a commit writes first is listed last: what is being committed meanwhile does not look as if it lacked something.
    await _list_pointers_and_task_records(store, found)
    for prefix, suffix, kind in (
        (keys.ALL_RECORDS, keys.RECORD_SUFFIX, "record"),
        (keys.ALL_MANIFESTS, ".json", "manifest"),
        (keys.ALL_DELETIONS, ".json", "mark"),
        (keys.ALL_DATA, "", "data"),
    ):
        await _list(store, found, prefix, suffix, kind)
    await _list_groups(store, found)
    found.uploads = await store.list_multipart(f"{keys.ROOT}/")
    found.unfinished = store.traits.unfinished
    await _read_pointers(store, found)
    await _read_checkpoints(store, found, deep=deep, on_looked=on_looked)
    return found


async def _each_object(store: Store, found: Survey, prefix: str) -> AsyncIterator[ObjectInfo]:
    async for info in each_object(store, prefix):
        found.tells_ages = found.tells_ages and info.stored_unix_s is not None
        yield info


async def _list(store: Store, found: Survey, prefix: str, suffix: str, kind: str) -> None:
    # The files of one checkpoint come one after the other: its key is taken apart once.
    folder, counted = "", Stored()
    async for info in _each_object(store, found, prefix):
        if folder and info.key.startswith(folder):
            counted.add(info)
            continue
        if kind == "record" and info.key.endswith(f"/{keys.LATEST}"):
            found.pointers[info.key] = Pointer(info.key)
            continue
        data_key = data_key_in(info.key, prefix, suffix)
        if data_key:
            facts = found.of(checkpoint_of(data_key))
            facts.key = data_key
            counted = getattr(facts, kind)
            counted.add(info)
            folder = f"{data_key}/" if kind == "data" else ""


async def _list_pointers_and_task_records(store: Store, found: Survey) -> None:
    async for info in _each_object(store, found, keys.ALL_TASK_RECORDS):
        parts = info.key.removeprefix(keys.ALL_TASK_RECORDS).split("/")
        if len(parts) != 5:
            continue
        pathspec, leaf = "/".join(parts[:4]), parts[4]
        if leaf == keys.LATEST:
            found.pointers[info.key] = Pointer(info.key)
        elif leaf.endswith(keys.RECORD_SUFFIX):
            facts = found.of(checkpoint_of_task(pathspec, leaf.removesuffix(keys.RECORD_SUFFIX)))
            facts.pathspec = pathspec
            facts.task_record.add(info)


async def _list_groups(store: Store, found: Survey) -> None:
    async for info in _each_object(store, found, keys.ALL_GROUPS):
        parts = info.key.removeprefix(keys.ALL_GROUPS).split("/")
        if len(parts) != 6:
            continue
        pathspec, leaf, name = "/".join(parts[:4]), parts[4], parts[5]
        folder = f"{keys.ALL_GROUPS}{pathspec}/{leaf}/"
        group = found.groups.setdefault(checkpoint_of_task(pathspec, leaf), GroupFacts(folder, pathspec, leaf))
        group.names.append(name)
        group.stored.add(info)


async def _read_pointers(store: Store, found: Survey) -> None:
    async def read_all(left: Iterator[Pointer]) -> None:
        for pointer in left:
            try:
                pointer.names = _slim(CheckpointRecord.from_json(await store.get(pointer.key), source=pointer.key))
            except StoreObjectMissing:
                del found.pointers[pointer.key]  # Gone meanwhile.
            except CheckpointDamaged:
                pointer.state = DAMAGED

    await at_once(read_all, list(found.pointers.values()))


async def _read_checkpoints(store: Store, found: Survey, *, deep: bool, on_looked: Callable[[int, int], None]) -> None:
    recorded = [facts for facts in found.checkpoints.values() if facts.record.objects or facts.task_record.objects]

    async def read_all(left: Iterator[CheckpointFacts]) -> None:
        for facts in left:
            await _read(store, facts, deep=deep)
            on_looked(1, len(recorded))

    on_looked(0, len(recorded))
    await at_once(read_all, recorded, tasks=DEEP_AT_ONCE if deep else READS_AT_ONCE)


async def _read(store: Store, facts: CheckpointFacts, *, deep: bool) -> None:
    record = None
    if facts.record.objects:
        record, facts.by_key = await _read_record(store, keys.record_key(facts.key))
    if record is not None:
        facts.pathspec = record.pathspec
    if facts.task_record.objects and facts.pathspec:
        source = f"{keys.task_records_prefix(facts.pathspec)}{facts.leaf}{keys.RECORD_SUFFIX}"
        of_task, facts.by_task = await _read_record(store, source)
        record = record or of_task
    if record is None:
        return
    facts.read = _slim(record)
    facts.key = facts.key or record.key
    if deep:
        problems = await check_shape(store, record)
        # What is wrong with the records is known by now, and tells of itself: a sentence each, the first ones.
        known = (facts.by_key != GOOD) + (facts.by_task != GOOD)
        facts.problems = tuple(problems[known:])


async def _read_record(store: Store, source: str) -> tuple[CheckpointRecord | None, str]:
    try:
        return CheckpointRecord.from_json(await store.get(source), source=source), GOOD
    except StoreObjectMissing:
        return None, MISSING
    except CheckpointDamaged:
        return None, DAMAGED


def _slim(record: CheckpointRecord) -> CheckpointRecord:
    """Return a record without what a user may have put into it: of that there may be any amount."""
    return replace(record, metadata={})
