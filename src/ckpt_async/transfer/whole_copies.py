"""Large objects that have not changed, for a store that copies whole objects and no ranges of them.

An object in several parts is compared with one of the same size, part by part, with the evidence of
`ckpt_async.transfer.unchanged`: by the name of the content, without reading a byte; else by the sums of each part, which takes a
read of its own, up to the first part that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import anyio.to_thread

from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import CopySource, Part, Store
from ckpt_async.stores.crc32 import combined_crc32
from ckpt_async.transfer.buffers import PartBuffers
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, SourceFile
from ckpt_async.transfer.reading import FilePiece, read_part
from ckpt_async.transfer.unchanged import Copying, StoredPart

__all__ = ["WholeCopies"]


@dataclass(frozen=True)
class _Same:
    """A part that is the same as a stored one, and the digests of the files in it."""

    stored: StoredPart
    pieces: Sequence[FilePiece]


class WholeCopies:
    """Copies what it can of one upload.

    Parameters
    ----------
    store : Store
        Asked for copies.
    copying : Copying
        What may be copied.
    files : sequence of SourceFile
        Of the upload.
    notes : UploadNotes
        Where what was copied is noted.
    budget, buffers
        For the parts that are read.
    """

    def __init__(
        self, store: Store, copying: Copying, files: Sequence[SourceFile], notes: UploadNotes, budget: Budget, buffers: PartBuffers
    ) -> None:
        self._store = store
        self._copying = copying
        self._files = files
        self._notes = notes
        self._budget = budget
        self._buffers = buffers

    async def run(self, work: Iterator[tuple[int, PlannedObject]], copied: Callable[[int], None]) -> None:
        """Copy what has not changed of these objects; `copied` is told the bytes of each.

        One by one within a task; several tasks may share `work`.
        """
        for index, planned in work:
            for candidate in self._copying.objects_like(planned):
                same = self._by_content(planned, candidate)
                if same is None:
                    same = await self._by_sums(planned, candidate)
                if same is not None and await self._copy(index, planned, same):
                    copied(planned.size_bytes)
                    break

    def _by_content(self, planned: PlannedObject, candidate: Sequence[StoredPart]) -> list[_Same] | None:
        if not self._copying.same_content(planned, candidate):
            return None
        file_index = planned.segments[0].file_index
        return [
            _Same(part, [FilePiece(file_index, part.source.offset, part.source.size_bytes, part.source.crc32)])
            for part in candidate
        ]

    async def _by_sums(self, planned: PlannedObject, candidate: Sequence[StoredPart]) -> list[_Same] | None:
        if not all(part.md5 for part in candidate):
            return None
        found = []
        for part, stored in zip(planned.parts, candidate, strict=True):
            same = await self._compared(planned, part, stored)
            if same is None:
                return None
            found.append(same)
        return found

    async def _compared(self, planned: PlannedObject, part: PlannedPart, stored: StoredPart) -> _Same | None:
        async with self._budget.hold(part.size_bytes):
            room = self._buffers.lend(part.size_bytes)
            read = await anyio.to_thread.run_sync(read_part, planned, part, self._files, room)
            md5 = ""
            if read.body.crc32 == stored.source.crc32:
                md5 = await self._copying.md5_of(read.body)
            self._buffers.give_back(room)
        return _Same(stored, read.pieces) if md5 == stored.md5 else None

    async def _copy(self, index: int, planned: PlannedObject, same: Sequence[_Same]) -> bool:
        first = same[0].stored.source
        whole = combined_crc32((one.stored.source.crc32, one.stored.source.size_bytes) for one in same)
        source = dataclasses.replace(first, offset=0, size_bytes=planned.size_bytes, crc32=whole)

        async def copy(source: CopySource) -> str:
            return (await self._store.copy(planned.key, source)).etag

        etag = await self._copying.tried(dataclasses.replace(same[0].stored, source=source, whole=True), copy)
        if etag is None:
            return False
        for part, one in zip(planned.parts, same, strict=True):
            stored = Part(part.number, etag, part.size_bytes, one.stored.source.crc32)
            self._notes.stored(index, stored, one.pieces, md5=one.stored.md5, copied=True)
        # Last: without it, the notes of the parts are worth nothing.
        self._notes.completed(index, etag)
        return True
