"""Whether a stored checkpoint has all that it consists of: what can be said of it without reading its data.

A load checks the digests as well; whatever is damaged inside an object of the right size, it alone finds.
"""

from __future__ import annotations

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.download import read_manifest
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing
from ckpt_async.words.groups import damaged_key
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord

__all__ = ["check_shape"]


async def check_shape(store: Store, record: CheckpointRecord) -> list[str]:
    """Return what is wrong with a stored checkpoint, a sentence each; none where nothing is.

    Both copies of its record are read, and its manifest; one listing tells which objects are there and how large they are. Of what
    another program saved there is no manifest: its size is compared with the sum of its objects.

    Parameters
    ----------
    record : CheckpointRecord
        As it is listed.

    Raises
    ------
    StoreError
        The store can't tell.
    """
    problems = await _check_records(store, record)
    if record.group and await store.head(damaged_key(record.group_folder)) is not None:
        problems.append("a node could not load its part of it")
    manifest: Manifest | None = None
    if record.manifest:
        try:
            manifest = await read_manifest(store, record)
        except StoreObjectMissing:
            problems.append(f"its manifest {record.manifest!r} is missing")
        except CheckpointDamaged as damage:
            problems.append(str(damage))
    if record.storage_format == "tar":
        problems += await _check_archive(store, record, manifest)
    else:
        problems += await _check_files(store, record, manifest)
    return problems


async def _check_records(store: Store, record: CheckpointRecord) -> list[str]:
    problems = []
    for what, source in (
        ("record by key", keys.record_key(record.key)),
        ("record in its task's list", keys.task_record_key_of(record.key, record.pathspec)),
    ):
        try:
            found = CheckpointRecord.from_json(await store.get(source), source=source)
        except StoreObjectMissing:
            problems.append(f"its {what}, {source!r}, is missing")
        except CheckpointDamaged as damage:
            problems.append(str(damage))
        else:
            if (found.key, found.pathspec) != (record.key, record.pathspec):
                problems.append(f"its {what}, {source!r}, is of {found.key!r} of the task {found.pathspec!r}")
    return problems


async def _check_archive(store: Store, record: CheckpointRecord, manifest: Manifest | None) -> list[str]:
    info = await store.head(record.key)
    if info is None:
        return ["its archive is missing"]
    problems = []
    if info.size_bytes != record.size_bytes:
        problems.append(f"its archive should have {record.size_bytes:,} bytes, it has {info.size_bytes:,}")
    end = max((file.tar_offset + file.size_bytes for file in manifest.files), default=0) if manifest is not None else 0
    if end > info.size_bytes:
        problems.append(f"its manifest names files up to byte {end:,} of an archive of {info.size_bytes:,}")
    return problems


async def _check_files(store: Store, record: CheckpointRecord, manifest: Manifest | None) -> list[str]:
    there = {info.key: info.size_bytes for info in await store.list(f"{record.key}/")}
    if manifest is None:
        if record.manifest:
            return []  # Which files there should be is what can't be read.
        total_bytes = sum(there.values())
        if total_bytes == record.size_bytes:
            return []
        return [f"its files should have {record.size_bytes:,} bytes together, {len(there)} with {total_bytes:,} are there"]
    problems = []
    if manifest.size_bytes != record.size_bytes:
        problems.append(f"it is said to have {record.size_bytes:,} bytes, its manifest names files with {manifest.size_bytes:,}")
    for file in manifest.files:
        size_bytes = there.get(f"{record.key}/{file.path}")
        if size_bytes is None:
            problems.append(f"its file {file.path!r} is missing")
        elif size_bytes != file.size_bytes:
            problems.append(f"its file {file.path!r} should have {file.size_bytes:,} bytes, it has {size_bytes:,}")
    return problems
