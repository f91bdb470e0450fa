"""Sending the objects of a checkpoint: many parts at once, few in memory, none twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ckpt_async.disk.digests import format_digest
from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import ObjectInfo, Part, Store, StoreTraits
from ckpt_async.transfer.buffers import PartBuffers
from ckpt_async.transfer.groups import plain_task_group
from ckpt_async.transfer.line_speed import LineSpeed, part_bytes_for, window_bytes_for
from ckpt_async.transfer.notes import NoteLog, UploadNotes, noted_part_bytes
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, SourceFile, UploadPlan, make_plan
from ckpt_async.transfer.reading import ReadPart, digest_of_pieces, read_part
from ckpt_async.words.errors import SpoolDamaged, StoreError, StoreObjectMissing, StoreRejected
from ckpt_async.words.manifest import Manifest, ManifestFile
from ckpt_async.words.records import CheckpointRecord

__all__ = ["UploadJob", "UploadResult", "upload"]

#: Requests with data at a time; small objects need more of them than large parts, whose number the budget of bytes bounds.
REQUESTS_AT_ONCE = 32

#: Parts up to this size are read several at a time, so many at most, and as many bytes in all.
SMALL_BYTES = 128 * 1024
SMALL_AT_ONCE = 16

#: Bytes of parts in memory at a time.
BUDGET_BYTES = 64 * 1024 * 1024

_W = TypeVar("_W")


@dataclass(frozen=True)
class UploadJob:
    """A checkpoint to be sent: its record and its frozen files."""

    record: CheckpointRecord
    files: tuple[SourceFile, ...]
    directories: tuple[str, ...]


@dataclass(frozen=True)
class UploadResult:
    """What `upload` returns.

    Attributes
    ----------
    manifest : Manifest
        With the digests that the sending reads computed.
    sent_bytes : int
        By this call.
    """

    manifest: Manifest
    sent_bytes: int


@dataclass(frozen=True)
class _Task:
    """A part to be sent, of the object with this index."""

    index: int
    planned: PlannedObject
    part: PlannedPart


class _Sender:
    """One running upload."""

    def __init__(
        self,
        store: Store,
        job: UploadJob,
        plan: UploadPlan,
        notes: UploadNotes,
        speed: LineSpeed,
        on_progress: Callable[[int], None],
    ) -> None:
        self._store = store
        self._job = job
        self._plan = plan
        self._notes = notes
        self._on_progress = on_progress
        self._speed = speed
        self._budget = Budget(window_bytes_for(speed.bytes_per_s, BUDGET_BYTES))
        self._buffers = PartBuffers()
        self._begin_locks = {index: anyio.Lock() for index, planned in enumerate(plan.objects) if len(planned.parts) > 1}
        self.sent_bytes = 0
        #: Whether all parts have been sent.
        self.joining = False

    async def run(self) -> None:
        for index, upload_id in self._notes.abandoned:
            await self._store.abort_multipart(self._plan.objects[index].key, upload_id)
        await self._at_once(self._send_all, self._work())
        self.joining = True
        await self._at_once(self._join_all, self._unjoined())
        try:
            await self._store.settle([planned.key for planned in self._plan.objects])
        except StoreError:
            # What the store has of it is not known: all of it is sent again.
            self._notes.restart()
            raise

    async def _at_once(self, act: Callable[[Iterator[_W]], Coroutine[Any, Any, None]], work: Iterator[_W]) -> None:
        """Let a number of tasks take from `work` until it is used up."""
        async with plain_task_group() as group:
            for _ in range(REQUESTS_AT_ONCE):
                group.start_soon(act, work)

    def _unjoined(self) -> Iterator[tuple[int, PlannedObject]]:
        for index, planned in enumerate(self._plan.objects):
            if len(planned.parts) > 1 and index not in self._notes.complete:
                yield index, planned

    async def _join_all(self, work: Iterator[tuple[int, PlannedObject]]) -> None:
        for index, planned in work:
            await self._join(index, planned)

    def _work(self) -> Iterator[list[_Task]]:
        """Parts that are not in the store yet; small ones together, for a thread costs more than reading them."""
        small: list[_Task] = []
        small_bytes = 0
        for index, planned in enumerate(self._plan.objects):
            if index in self._notes.complete:
                continue
            noted = self._notes.parts.get(index, {})
            for part in planned.parts:
                if part.number in noted:
                    continue
                if part.size_bytes > SMALL_BYTES:
                    yield [_Task(index, planned, part)]
                    continue
                small.append(_Task(index, planned, part))
                small_bytes += part.size_bytes
                if len(small) == SMALL_AT_ONCE or small_bytes > SMALL_BYTES:
                    yield small
                    small, small_bytes = [], 0
        if small:
            yield small

    async def _send_all(self, work: Iterator[list[_Task]]) -> None:
        for tasks in work:
            size_bytes = sum(task.part.size_bytes for task in tasks)
            async with self._budget.hold(size_bytes):
                room = self._buffers.lend(size_bytes)
                for task, read in await anyio.to_thread.run_sync(self._read, tasks, room):
                    await self._send(task.index, task.planned, task.part, read)
                # Not where it failed: a connection that was given up may still hold on to it.
                self._buffers.give_back(room)

    def _read(self, tasks: list[_Task], room: memoryview) -> list[tuple[_Task, ReadPart]]:
        found, position = [], 0
        for task in tasks:
            found.append((task, read_part(task.planned, task.part, self._job.files, room[position:])))
            position += task.part.size_bytes
        return found

    async def _send(self, index: int, planned: PlannedObject, part: PlannedPart, read: ReadPart) -> None:
        if len(planned.parts) == 1:
            info = await self._store.put(planned.key, read.body, durable=False)
            sent = Part(1, info.etag, part.size_bytes, read.body.crc32)
            self._notes.sent(index, sent, read.pieces, complete=True)
        else:
            upload_id = await self._begin(index, planned)
            sent = await self._store.put_part(planned.key, upload_id, part.number, part.offset, read.body)
            self._notes.sent(index, sent, read.pieces)
        self.sent_bytes += part.size_bytes
        self._speed.acknowledged(part.size_bytes)
        self._budget.limit = window_bytes_for(self._speed.bytes_per_s, BUDGET_BYTES)
        self._on_progress(self._notes.noted_bytes)

    async def _begin(self, index: int, planned: PlannedObject) -> str:
        async with self._begin_locks[index]:
            known = self._notes.upload_ids.get(index)
            if known is None:
                known = await self._store.begin_multipart(planned.key)
                self._notes.began(index, known, planned.key)
            return known

    async def _join(self, index: int, planned: PlannedObject) -> None:
        noted = self._notes.parts[index]
        parts = [noted[part.number] for part in planned.parts]
        try:
            await self._store.complete_multipart(planned.key, self._notes.upload_ids[index], parts)
        except StoreObjectMissing:
            # Joined by an earlier try whose answer was lost, or by a worker that died before it could note it? Then it is there.
            info: ObjectInfo | None = await self._store.head(planned.key)
            if info is None or info.size_bytes != sum(part.size_bytes for part in planned.parts):
                raise
        self._notes.completed(index)


async def upload(
    store: Store,
    job: UploadJob,
    log: NoteLog,
    *,
    on_progress: Callable[[int], None],
    on_plan: Callable[[int], None],
    speed: LineSpeed | None = None,
) -> UploadResult:
    """Send every object of a checkpoint that the store does not have yet. The checkpoint is not visible afterwards: see `commit`.

    May be cancelled and repeated at any point: parts that were acknowledged are not sent again.

    Parameters
    ----------
    log : NoteLog
        Where finished parts are noted, and found again.
    on_progress : callable
        Called with the bytes that the store has so far.
    on_plan : callable
        Called once with the bytes that it will have in the end.
    speed : LineSpeed, optional
        What earlier uploads have learnt about the line, and this one goes on with.

    Raises
    ------
    StoreError
        A permanent one.
    SpoolDamaged
        The frozen files are not what they were.
    """
    speed = speed or LineSpeed()
    plan = await anyio.to_thread.run_sync(_plan, job, log, store.traits, speed)
    on_plan(plan.total_bytes)
    sent_bytes = 0
    for last_try in (False, True):
        notes = await anyio.to_thread.run_sync(UploadNotes, log, plan, store.traits.url)
        sender = _Sender(store, job, plan, notes, speed, on_progress)
        speed.begin()
        try:
            await sender.run()
        except (StoreObjectMissing, StoreRejected) as error:
            # A multipart upload that an earlier worker began is gone (a lifecycle rule, an operator), or the store lacks a part
            # that it had acknowledged (its machine crashed): what was saved lies here still, so begin anew, once.
            if last_try or not notes.upload_ids or (isinstance(error, StoreRejected) and not sender.joining):
                raise
            for index, upload_id in list(notes.upload_ids.items()):
                if index not in notes.complete:
                    await store.abort_multipart(plan.objects[index].key, upload_id)
                    notes.forget(index)
            sent_bytes += sender.sent_bytes
            continue
        break
    # In a thread: the digests of 50,000 files take their time.
    manifest = await anyio.to_thread.run_sync(_manifest, job, plan, notes)
    return UploadResult(manifest, sent_bytes + sender.sent_bytes)


def _plan(job: UploadJob, log: NoteLog, traits: StoreTraits, speed: LineSpeed) -> UploadPlan:
    """What an earlier worker has begun goes on with parts of the same size, whatever the line gives now."""
    part_bytes = noted_part_bytes(log.read(), traits.url) or part_bytes_for(speed.bytes_per_s)
    return make_plan(job.record, job.files, job.directories, traits, part_bytes)


def _manifest(job: UploadJob, plan: UploadPlan, notes: UploadNotes) -> Manifest:
    pieces = notes.all_pieces()
    files = []
    for index, (file, tar_offset) in enumerate(zip(job.files, plan.tar_offsets, strict=True)):
        crc32 = digest_of_pieces(pieces.get(index, []), file.size_bytes)
        if crc32 is None:
            raise SpoolDamaged(
                "upload a checkpoint",
                on=job.record.key,
                cause=f"the notes of {file.path!r} do not cover the file",
                hint="Save again.",
            )
        files.append(ManifestFile(file.path, file.size_bytes, format_digest(crc32), file.mode, file.mtime_ns, tar_offset))
    return Manifest(job.record.key, job.record.storage_format, tuple(files), job.directories)
