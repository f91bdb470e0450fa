"""What tests of transfers share: files to save, stores with small parts, a log of notes in memory."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckpt_async.stores.contract import Store, StoreTraits
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryStore
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.plan import SourceFile, tar_size_bytes
from ckpt_async.transfer.upload import UploadJob, UploadResult, upload
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord

PART_BYTES = 1000

FILES: dict[str, bytes] = {
    "empty": b"",
    "small": b"s" * 10,
    "one part": b"p" * PART_BYTES,
    "big/größe.bin": os.urandom(7 * PART_BYTES + 13),
    "big/" + "n" * 150: os.urandom(2 * PART_BYTES),
}
DIRECTORIES = ("big", "hollow", "hollow/inner")


class SmallMemory(MemoryStore):
    """Parts of 1,000 bytes, so that small files have many."""

    @property
    def traits(self) -> StoreTraits:
        return dataclasses.replace(super().traits, max_part_bytes=PART_BYTES)


class SmallLocal(LocalStore):
    """Likewise."""

    @property
    def traits(self) -> StoreTraits:
        return dataclasses.replace(super().traits, max_part_bytes=PART_BYTES)


class ListLog:
    """Notes in memory; each goes through JSON, as it does on disk."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def append(self, note: dict[str, Any]) -> None:
        self.lines.append(json.dumps(note))

    def restart(self) -> None:
        self.lines.clear()


def identity(*, run: str = "1", attempt: int = 0) -> TaskIdentity:
    return TaskIdentity("Flow", run, "train", "2", attempt, "a" * 12, "b" * 12)


def record_of(
    version: int = 0,
    *,
    run: str = "1",
    attempt: int = 0,
    name: str = "best",
    size_bytes: int = 0,
    storage_format: str = "files",
    now_unix_ns: int | None = None,
) -> CheckpointRecord:
    return CheckpointRecord.of_save(
        identity(run=run, attempt=attempt),
        name=name,
        version=version,
        size_bytes=size_bytes,
        metadata={"version": version},
        storage_format=storage_format,
        store_url="memory://",
        now_unix_ns=now_unix_ns,
    )


def job_of(folder: Path, files: Mapping[str, bytes] = FILES, storage_format: str = "files", **about: Any) -> UploadJob:
    """Write the files, all into one pack as the spool has them, and describe them."""
    folder.mkdir(exist_ok=True)
    pack = folder / "pack"
    pack.write_bytes(b"".join(content for _, content in sorted(files.items())))
    sources = []
    offset = 0
    for path, content in sorted(files.items()):
        sources.append(SourceFile(path, len(content), 0o640, 1_600_000_000_123_456_789, str(pack), offset))
        offset += len(content)
    size_bytes = offset if storage_format == "files" else tar_size_bytes(sources, DIRECTORIES)
    return UploadJob(record_of(size_bytes=size_bytes, storage_format=storage_format, **about), tuple(sources), DIRECTORIES)


async def send(store: Store, job: UploadJob, log: ListLog | None = None) -> UploadResult:
    return await upload(store, job, log if log is not None else ListLog(), on_progress=lambda _: None, on_plan=lambda _: None)


async def save_whole(store: Store, job: UploadJob, *, latest: bool = True) -> CheckpointRecord:
    """Upload and commit."""
    result = await send(store, job)
    whose = identity(run=job.record.pathspec.split("/")[1], attempt=job.record.attempt)
    await commit(store, whose, job.record, result.manifest, latest=latest)
    return job.record


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
