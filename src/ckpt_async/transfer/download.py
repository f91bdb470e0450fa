"""Bringing a checkpoint back: ranged reads at once, verified while they arrive, handed over whole or not at all."""

from __future__ import annotations

import os

import anyio
import anyio.to_thread

from ckpt_async.stores.contract import Store
from ckpt_async.transfer import foreign
from ckpt_async.transfer.fetch import OnFetched, fetch_files, untold
from ckpt_async.transfer.partial import PartialFolder
from ckpt_async.transfer.ranges import WantedFile
from ckpt_async.words.errors import CheckpointDamaged, LoadTargetNotEmpty, SnapshotFailed, StoreObjectMissing
from ckpt_async.words.manifest import DIGEST_ALGORITHM, Manifest, ManifestFile
from ckpt_async.words.records import CheckpointRecord

__all__ = ["download", "listed_manifest", "read_manifest", "wanted_files"]


async def read_manifest(store: Store, record: CheckpointRecord) -> Manifest:
    """Read the manifest of a checkpoint that this package saved.

    Raises
    ------
    StoreObjectMissing
        There is none.
    CheckpointDamaged
        It is damaged, or belongs to another checkpoint.
    """
    text = await store.get(record.manifest)
    # In a thread: 50,000 files take more than half a second.
    manifest = await anyio.to_thread.run_sync(lambda: Manifest.from_json(text, source=record.manifest))
    if manifest.key != record.key or manifest.algorithm != DIGEST_ALGORITHM:
        raise CheckpointDamaged(
            "load a checkpoint", on=record.key, cause=f"its manifest is of {manifest.key!r}, with digests in {manifest.algorithm!r}"
        )
    return manifest


async def listed_manifest(store: Store, record: CheckpointRecord) -> Manifest:
    """As `read_manifest`, of a checkpoint that can be seen: then it is damage that there is none, or one of another size."""
    try:
        manifest = await read_manifest(store, record)
    except StoreObjectMissing:
        raise CheckpointDamaged("load a checkpoint", on=record.key, cause=f"its manifest {record.manifest!r} is missing") from None
    _check_size(manifest, record)
    return manifest


async def download(store: Store, record: CheckpointRecord, target: str, *, on_fetched: OnFetched = untold) -> None:
    """Load a checkpoint into the folder `target`, which is empty, or missing.

    The files appear in it when all of them have arrived and match their digests. Nothing of the store is aliased: they are the
    user's.

    Parameters
    ----------
    on_fetched : callable
        Called with the bytes and the whole files that have come since the call before. Of an archive without a manifest, files are
        told of only in the end.

    Raises
    ------
    LoadTargetNotEmpty
        The folder holds something.
    CheckpointDamaged
        A file is missing, too short, or another than the one saved. Nothing has appeared.
    StoreError
        The store does not answer, or refuses.
    """
    folder = PartialFolder(target)
    try:
        await anyio.to_thread.run_sync(folder.make)
        if record.manifest:
            manifest = await listed_manifest(store, record)
            await anyio.to_thread.run_sync(_make_folders, manifest, folder.path)
            await fetch_files(store, wanted_files(record, manifest), folder.path, on=record.key, on_fetched=on_fetched)
        else:
            await foreign.fetch(store, record, folder.path, on_fetched=on_fetched)
        await anyio.to_thread.run_sync(folder.hand_over)
    except LoadTargetNotEmpty:
        raise  # It is an OSError too.
    except OSError as error:
        raise SnapshotFailed(
            "load a checkpoint",
            on=error.filename or target,
            cause=error.strerror or str(error),
            hint=f"It has {record.size_bytes / 1e6:.3g} MB. Free disk space or load it elsewhere.",
        ) from error
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(folder.remove)


def _check_size(manifest: Manifest, record: CheckpointRecord) -> None:
    """Refuse a manifest that would have more written than the checkpoint is said to hold."""
    size_bytes = manifest.size_bytes
    # The record of a group save tells the size of all parts together.
    exact = record.storage_format == "files" and not (record.group and record.node_index >= 0)
    if size_bytes > record.size_bytes or (exact and size_bytes != record.size_bytes):
        cause = f"it is said to have {record.size_bytes:,} bytes, its manifest names files with {size_bytes:,} bytes"
        raise CheckpointDamaged("load a checkpoint", on=record.key, cause=cause)


def _make_folders(manifest: Manifest, folder: str) -> None:
    for path in manifest.directories:
        os.makedirs(os.path.join(folder, path), exist_ok=True)


def wanted_files(record: CheckpointRecord, manifest: Manifest) -> list[WantedFile]:
    """Return the files of a checkpoint as they are read."""
    return [_wanted(record, file) for file in manifest.files]


def _wanted(record: CheckpointRecord, file: ManifestFile) -> WantedFile:
    inside = file.tar_offset >= 0
    key = record.key if inside else f"{record.key}/{file.path}"
    return WantedFile(file.path, file.size_bytes, key, max(0, file.tar_offset), file.digest, file.mode & 0o777, file.mtime_ns)
