"""Bringing a checkpoint back: ranged reads at once, verified while they arrive, handed over whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
import anyio.to_thread

from ckpt_async.disk.digests import crc32_combine, format_digest
from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import Store
from ckpt_async.transfer import foreign
from ckpt_async.transfer.groups import plain_task_group
from ckpt_async.transfer.partial import PARTIAL_PREFIX, PartialFolder
from ckpt_async.transfer.upload import BUDGET_BYTES, REQUESTS_AT_ONCE
from ckpt_async.words.errors import CheckpointDamaged, LoadTargetNotEmpty, SnapshotFailed, StoreObjectMissing
from ckpt_async.words.manifest import DIGEST_ALGORITHM, Manifest, ManifestFile
from ckpt_async.words.records import CheckpointRecord

__all__ = ["PARTIAL_PREFIX", "check_target", "download", "hand_over"]

RANGE_BYTES = 8 * 1024 * 1024


def check_target(target: str) -> None:
    """Make the folder to load into where it is missing.

    Raises
    ------
    LoadTargetNotEmpty
        It holds files already, or is no folder.
    """
    try:
        os.makedirs(target, exist_ok=True)
        present = [name for name in os.listdir(target) if not name.startswith(PARTIAL_PREFIX)]
    except (FileExistsError, NotADirectoryError):
        raise LoadTargetNotEmpty(
            "load a checkpoint", on=target, cause="it is not a folder", hint="Name a new or an empty one."
        ) from None
    if present:
        raise LoadTargetNotEmpty(
            "load a checkpoint",
            on=target,
            cause=f"the folder holds {len(present)} entries already, {sorted(present)[0]!r} among them",
            hint="Name a new or an empty folder, so that nothing of yours is mixed with the checkpoint or lost.",
        )


@dataclass(frozen=True)
class _Range:
    index: int
    offset: int
    size_bytes: int


class _FileSums:
    """The digests of a file's ranges as they arrive, in any order."""

    def __init__(self, ranges: int) -> None:
        self._left = ranges
        self._sums: dict[int, tuple[int, int]] = {}

    def add(self, offset: int, size_bytes: int, crc32: int) -> int | None:
        """Take one; returns the digest of the whole file after the last."""
        self._sums[offset] = (size_bytes, crc32)
        self._left -= 1
        if self._left:
            return None
        whole = 0
        for position in sorted(self._sums):
            length, crc = self._sums[position]
            # Joining costs up to 0.2 ms for a new length: a file of one range, one of 50,000 maybe, does without.
            whole = crc32_combine(whole, crc, length) if position else crc
        return whole


async def read_manifest(store: Store, record: CheckpointRecord) -> Manifest:
    """Read the manifest of a checkpoint that this package saved.

    Raises
    ------
    CheckpointDamaged
        It is missing, damaged, or belongs to another checkpoint.
    """
    try:
        text = await store.get(record.manifest)
    except StoreObjectMissing:
        raise CheckpointDamaged("load a checkpoint", on=record.key, cause=f"its manifest {record.manifest!r} is missing") from None
    # In a thread: 50,000 files take more than half a second.
    manifest = await anyio.to_thread.run_sync(lambda: Manifest.from_json(text, source=record.manifest))
    if manifest.key != record.key or manifest.algorithm != DIGEST_ALGORITHM:
        raise CheckpointDamaged(
            "load a checkpoint", on=record.key, cause=f"its manifest is of {manifest.key!r}, with digests in {manifest.algorithm!r}"
        )
    return manifest


async def download(store: Store, record: CheckpointRecord, target: str) -> None:
    """Load a checkpoint into the folder `target`, which is empty, or missing.

    The files appear in it when all of them have arrived and match their digests. Nothing of the store is aliased: they are the
    user's.

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
    partial = folder.path
    try:
        await anyio.to_thread.run_sync(check_target, target)
        await anyio.to_thread.run_sync(folder.make)
        if record.manifest:
            manifest = await read_manifest(store, record)
            await _fetch(store, record, manifest, partial)
        else:
            await foreign.fetch(store, record, partial)
        await anyio.to_thread.run_sync(hand_over, partial, target)
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


def hand_over(partial: str, target: str) -> None:
    """Move what was loaded into `partial`, a folder inside `target`, up into `target`; either all of it or nothing.

    Raises
    ------
    LoadTargetNotEmpty
        Something was put into `target` meanwhile: a load may take long, and a rename would replace it.
    """
    check_target(target)
    moved: list[str] = []
    try:
        for name in sorted(os.listdir(partial)):
            os.rename(os.path.join(partial, name), os.path.join(target, name))
            moved.append(name)
    except BaseException:
        for name in moved:
            os.rename(os.path.join(target, name), os.path.join(partial, name))
        raise


async def _fetch(store: Store, record: CheckpointRecord, manifest: Manifest, partial: str) -> None:
    await anyio.to_thread.run_sync(_prepare, manifest, partial)
    budget = Budget(BUDGET_BYTES)
    sums = [_FileSums(-(-file.size_bytes // RANGE_BYTES)) for file in manifest.files]
    # Made one by one: a manifest may claim any size, and the first range that is missing ends it.
    work = (piece for index, file in enumerate(manifest.files) for piece in _ranges(index, file))

    async def take() -> None:
        for piece in work:
            async with budget.hold(piece.size_bytes):
                file = manifest.files[piece.index]
                content = await _read(store, record, file, piece)
                crc32 = await anyio.to_thread.run_sync(_write, os.path.join(partial, file.path), piece.offset, content)
                whole = sums[piece.index].add(piece.offset, piece.size_bytes, crc32)
                if whole is not None and format_digest(whole) != file.digest:
                    raise CheckpointDamaged(
                        "load a checkpoint",
                        on=record.key,
                        cause=f"file {file.path!r} should have the digest {file.digest}, it has {format_digest(whole)}",
                        hint="Load an earlier one; list() shows them.",
                    )

    async with plain_task_group() as group:
        for _ in range(REQUESTS_AT_ONCE):
            group.start_soon(take)
    await anyio.to_thread.run_sync(_finish, manifest, partial)


def _ranges(index: int, file: ManifestFile) -> Iterator[_Range]:
    for offset in range(0, file.size_bytes, RANGE_BYTES):
        yield _Range(index, offset, min(RANGE_BYTES, file.size_bytes - offset))


async def _read(store: Store, record: CheckpointRecord, file: ManifestFile, piece: _Range) -> bytes:
    if file.tar_offset >= 0:
        key, offset = record.key, file.tar_offset + piece.offset
    else:
        key, offset = f"{record.key}/{file.path}", piece.offset
    try:
        content = await store.get(key, offset=offset, size_bytes=piece.size_bytes)
    except StoreObjectMissing:
        raise CheckpointDamaged(
            "load a checkpoint",
            on=record.key,
            cause=f"file {file.path!r} ({file.size_bytes} bytes) is missing in the store",
            hint="Load an earlier one; list() shows them.",
        ) from None
    if len(content) != piece.size_bytes:
        raise CheckpointDamaged(
            "load a checkpoint",
            on=record.key,
            cause=f"file {file.path!r} should have {file.size_bytes} bytes, it ends at {piece.offset + len(content)}",
            hint="Load an earlier one; list() shows them.",
        )
    return content


def _prepare(manifest: Manifest, partial: str) -> None:
    for path in manifest.directories:
        os.makedirs(os.path.join(partial, path), exist_ok=True)
    for file in manifest.files:
        path = os.path.join(partial, file.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _write(path: str, offset: int, content: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)
    return zlib.crc32(content)


def _finish(manifest: Manifest, partial: str) -> None:
    for file in manifest.files:
        path = os.path.join(partial, file.path)
        os.chmod(path, file.mode & 0o777)
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
