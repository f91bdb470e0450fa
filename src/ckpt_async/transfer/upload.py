"""Sending the objects of a checkpoint: many parts at once, few in memory, none twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import CopySource, ObjectInfo, Part, Store, StoreTraits
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.buffers import PartBuffers
from ckpt_async.transfer.line_speed import LineSpeed, most_bytes_for, part_bytes_for, window_bytes_for
from ckpt_async.transfer.notes import NoteLog, UploadNotes, noted_part_bytes
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, SourceFile, UploadPlan, make_plan
from ckpt_async.transfer.reading import FilePiece, ReadPart, read_part
from ckpt_async.transfer.recorded import manifest_of, to_manifest
from ckpt_async.transfer.resuming import forget_deleted
from ckpt_async.transfer.unchanged import Copying, StoredBefore, StoredPart, stored_parts
from ckpt_async.transfer.whole_copies import WholeCopies
from ckpt_async.words.errors import StoreError, StoreObjectMissing, StoreRejected
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord

__all__ = ["UploadJob", "UploadResult", "upload"]

#: Requests with data at a time; small objects need more of them than large parts, whose number the budget of bytes bounds.
REQUESTS_AT_ONCE = 32

#: Parts up to this size are read several at a time, so many at most, and as many bytes in all.
SMALL_BYTES = 128 * 1024
SMALL_AT_ONCE = 16

#: Bytes of parts in memory at a time, unless the caller says how many; of an object of which the parts must be large,
#: `most_bytes_for` gives more.
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
    copied_bytes : int
        What this call had the store copy instead.
    stored, part_bytes
        For `StoredBefore.remember`, once the checkpoint is committed.
    """

    manifest: Manifest
    sent_bytes: int
    copied_bytes: int
    stored: tuple[StoredPart, ...]
    part_bytes: int


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
        copying: Copying,
        speed: LineSpeed,
        on_progress: Callable[[int], None],
        memory_bytes: int | None,
    ) -> None:
        self._store = store
        self._job = job
        self._plan = plan
        self._notes = notes
        self._copying = copying
        self._on_progress = on_progress
        self._speed = speed
        self._most_bytes = memory_bytes or most_bytes_for(plan.part_bytes, BUDGET_BYTES)
        self._budget = Budget(window_bytes_for(speed.bytes_per_s, self._most_bytes))
        self._buffers = PartBuffers()
        self._begin_locks = {index: anyio.Lock() for index, planned in enumerate(plan.objects) if len(planned.parts) > 1}
        #: Parts that were asked for as copies, in vain; and whether one was refused then: some servers take that for the part.
        self._not_copied: set[tuple[int, int]] = set()
        self.spoilt = False
        self.sent_bytes = 0
        self.copied_bytes = 0
        #: Whether all parts have been sent.
        self.joining = False

    async def run(self) -> None:
        for index, upload_id in self._notes.abandoned:
            await self._store.abort_multipart(self._plan.objects[index].key, upload_id)
        whole = WholeCopies(self._store, self._copying, self._job.files, self._notes, self._budget, self._buffers)
        await self._at_once(partial(whole.run, copied=self._copied), self._unbegun())
        await self._at_once(self._copy_all, self._work())
        self._speed.begin()
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

    def _unbegun(self) -> Iterator[tuple[int, PlannedObject]]:
        """Objects in several parts of which nothing is stored yet."""
        for index, planned in enumerate(self._plan.objects):
            if len(planned.parts) > 1 and index not in self._notes.complete and index not in self._notes.upload_ids:
                yield index, planned

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

    async def _copy_all(self, work: Iterator[list[_Task]]) -> None:
        """Have copied what is known without a read; what can't be is sent with the rest."""
        for task in (task for tasks in work for task in tasks):
            same = self._copying.unread(task.planned, task.part)
            if same is not None:
                first = task.planned.segments[0]
                piece = FilePiece(first.file_index, task.part.offset, task.part.size_bytes, same.source.crc32)
                await self._copy(task.index, task.planned, task.part, same, [piece])

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
        same, md5 = await self._copying.read(planned, part, read.body)
        if same is not None and await self._copy(index, planned, part, same, read.pieces):
            return
        if len(planned.parts) == 1:
            info = await self._store.put(planned.key, read.body, durable=False)
            sent = Part(1, info.etag, part.size_bytes, read.body.crc32)
            self._notes.stored(index, sent, read.pieces, complete=True, md5=md5)
        else:
            upload_id = await self._begin(index, planned)
            try:
                sent = await self._store.put_part(planned.key, upload_id, part.number, part.offset, read.body)
            except StoreRejected:
                self.spoilt = (index, part.number) in self._not_copied
                raise
            self._notes.stored(index, sent, read.pieces, md5=md5)
        self.sent_bytes += part.size_bytes
        self._speed.acknowledged(part.size_bytes)
        self._budget.limit = window_bytes_for(self._speed.bytes_per_s, self._most_bytes)
        self._on_progress(self._notes.noted_bytes)

    async def _copy(
        self, index: int, planned: PlannedObject, part: PlannedPart, same: StoredPart, pieces: Iterable[FilePiece]
    ) -> bool:
        """Have the store copy a part; returns False where it must be sent."""
        whole = len(planned.parts) == 1
        upload_id = "" if whole else await self._begin(index, planned)

        async def copy(source: CopySource) -> Part:
            if whole:
                return Part(1, (await self._store.copy(planned.key, source)).etag, part.size_bytes, source.crc32)
            return await self._store.copy_part(planned.key, upload_id, part.number, part.offset, source)

        copied = await self._copying.tried(same, copy)
        if copied is None:
            self._not_copied.add((index, part.number))
            return False
        self._notes.stored(index, copied, pieces, complete=whole, md5=same.md5, copied=True)
        self._copied(part.size_bytes)
        return True

    def _copied(self, size_bytes: int) -> None:
        self.copied_bytes += size_bytes
        # The time that the store takes for a copy says nothing of the line.
        self._speed.begin()
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
            info: ObjectInfo | None = await self._store.complete_multipart(planned.key, self._notes.upload_ids[index], parts)
        except StoreObjectMissing:
            # Joined by an earlier try whose answer was lost, or by a worker that died before it could note it? Then it is there.
            info = await self._store.head(planned.key)
            if info is None or info.size_bytes != planned.size_bytes:
                raise
        if index in self._notes.copied:
            # Not every server sums the whole: at least it must have taken the right range of what it was to copy.
            info = await self._store.head(planned.key)
            if info is None or info.size_bytes != planned.size_bytes:
                cause = f"joined from copies it has {info.size_bytes if info else 'no'} bytes in place of {planned.size_bytes}"
                raise StoreRejected("copy what has not changed", on=planned.key, cause=cause)
        assert info is not None
        self._notes.completed(index, info.etag)


async def upload(
    store: Store,
    job: UploadJob,
    log: NoteLog,
    *,
    on_progress: Callable[[int], None],
    on_plan: Callable[[int], None],
    before: StoredBefore | None = None,
    speed: LineSpeed | None = None,
    memory_bytes: int | None = None,
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
    before : StoredBefore, optional
        What the store has already: the same bytes are copied there and not sent.
    speed : LineSpeed, optional
        What earlier uploads have learnt about the line, and this one goes on with.
    memory_bytes : int, optional
        How many bytes of parts are in memory at a time at most, but for one part, which always is.

    Raises
    ------
    StoreError
        A permanent one.
    SpoolDamaged
        The frozen files are not what they were.
    """
    speed = speed or LineSpeed()
    before = before if before is not None else StoredBefore()
    plan = await anyio.to_thread.run_sync(_plan, job, log, store.traits, speed, before)
    on_plan(plan.total_bytes)
    sent_bytes = copied_bytes = 0
    for last_try in (False, True):
        notes = await anyio.to_thread.run_sync(UploadNotes, log, plan, store.traits.url)
        if notes.complete:
            await forget_deleted(store, job.record, plan, notes)
        # A second try copies nothing: what the store refused may have been a copy.
        copying = Copying(store, before if not last_try else StoredBefore(), job.files)
        sender = _Sender(store, job, plan, notes, copying, speed, on_progress, memory_bytes)
        try:
            await sender.run()
        except (StoreObjectMissing, StoreRejected) as error:
            # An upload that an earlier worker began is gone (a lifecycle rule, an operator), or the store lacks a part that it had
            # acknowledged (its machine crashed), or it is spoilt: what was saved lies here still, so begin anew, once.
            renewable = isinstance(error, StoreObjectMissing) or sender.joining or sender.spoilt
            if last_try or not notes.upload_ids or not renewable:
                raise
            for index, upload_id in list(notes.upload_ids.items()):
                if index not in notes.complete:
                    await store.abort_multipart(plan.objects[index].key, upload_id)
                    notes.forget(index)
            sent_bytes += sender.sent_bytes
            copied_bytes += sender.copied_bytes
            continue
        break
    # In a thread: the digests of 50,000 files take their time.
    manifest = await anyio.to_thread.run_sync(manifest_of, job.record, job.files, job.directories, plan, notes)
    stored = await anyio.to_thread.run_sync(stored_parts, plan, job.files, notes)
    if store.traits.far:  # Of another one nobody would ask for it.
        paths = [file.path for file in job.files]
        said = await anyio.to_thread.run_sync(to_manifest, job.record.key, paths, stored, plan.part_bytes)
        manifest = dataclasses.replace(manifest, stored=said)
    return UploadResult(manifest, sent_bytes + sender.sent_bytes, copied_bytes + sender.copied_bytes, stored, plan.part_bytes)


def _plan(job: UploadJob, log: NoteLog, traits: StoreTraits, speed: LineSpeed, before: StoredBefore) -> UploadPlan:
    """What an earlier worker has begun goes on with parts of the same size, whatever the line gives now; so does what may hold
    parts of the checkpoint before it.
    """
    part_bytes = noted_part_bytes(log.read(), traits.url) or before.part_bytes(job.record) or part_bytes_for(speed.bytes_per_s)
    return make_plan(job.record, job.files, job.directories, traits, part_bytes)
