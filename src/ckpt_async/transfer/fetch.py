"""Reading files from a store, into a folder or only to check them: many ranges at once, few bytes in memory, each file checked
while it arrives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ckpt_async.disk.digests import crc32, crc32_combine, format_digest
from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import Store
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.buffers import PartBuffers
from ckpt_async.transfer.ranges import RANGE_BYTES, Piece, RangeRead, WantedFile, pieces_of, plan_reads
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing

__all__ = ["OnFetched", "check_files", "fetch_files", "untold"]

#: Called, in the loop, with the bytes and the whole files that have come since the call before.
OnFetched = Callable[[int, int], None]

#: Requests at a time: what small files need on a line with latency. The budget of bytes bounds large ranges further.
REQUESTS_AT_ONCE = 32

#: Bytes of ranges in memory at a time, unless the caller says how many.
BUDGET_BYTES = 128 * 1024 * 1024

#: From here on a range is read into memory that is used again.
BUFFER_FROM_BYTES = 1024 * 1024

#: Threads that check and write at a time, and bytes that one of them takes at once: small files are written by the hundred.
WRITERS = 4
WRITE_BYTES = RANGE_BYTES

_HINT = "Load an earlier one; list() shows them."


@dataclass(eq=False)
class _Arrived:
    """A range in memory that waits to be written."""

    read: RangeRead
    content: memoryview
    sums: list[int] = field(default_factory=list)
    written: anyio.Event = field(default_factory=anyio.Event)


def untold(size_bytes: int, files: int) -> None:
    """Tell nobody."""


async def fetch_files(
    store: Store,
    files: Sequence[WantedFile],
    folder: str,
    *,
    on: str,
    on_fetched: OnFetched = untold,
    memory_bytes: int | None = None,
) -> None:
    """Write files into an existing folder that holds none of them; the folders for them are made.

    Parameters
    ----------
    on : str
        The checkpoint, for errors.
    on_fetched : callable
        Told of what has been written.
    memory_bytes : int, optional
        How many bytes are in memory at a time at most, but for one range, which always is.

    Raises
    ------
    CheckpointDamaged
        A file is missing, too short, or another than its digest says.
    OSError
        Writing failed.
    StoreError
        The store does not answer, or refuses.
    """
    await anyio.to_thread.run_sync(_prepare, files, folder)
    await _run(_Fetch(store, files, _IntoFolder(folder), on, on_fetched, memory_bytes or BUDGET_BYTES))


async def check_files(store: Store, files: Sequence[WantedFile], *, on: str, on_fetched: OnFetched = untold) -> None:
    """Read files and compare them with their digests; nothing is written anywhere. Parameters and errors as of `fetch_files`."""
    await _run(_Fetch(store, files, _Nowhere(), on, on_fetched, BUDGET_BYTES))


async def _run(fetch: _Fetch) -> None:
    fetch.tell_empty()
    ready, arriving = anyio.create_memory_object_stream[_Arrived](REQUESTS_AT_ONCE)
    async with plain_task_group() as group, ready, arriving:
        for _ in range(WRITERS):
            group.start_soon(fetch.write, arriving.clone())
        for _ in range(REQUESTS_AT_ONCE):
            group.start_soon(fetch.read, ready.clone())


class _Sink(Protocol):
    """Where what has arrived goes. Blocks."""

    def whole(self, file: WantedFile, content: memoryview) -> None:
        """Take a file."""

    def piece(self, file: WantedFile, offset: int, content: memoryview) -> None:
        """Take a piece of a file."""

    def finish(self, file: WantedFile) -> None:
        """Give a file of which all pieces were taken its mode and time."""


class _IntoFolder:
    """The files of a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def whole(self, file: WantedFile, content: memoryview) -> None:
        _write_whole(os.path.join(self._folder, file.path), file, content)

    def piece(self, file: WantedFile, offset: int, content: memoryview) -> None:
        _write_piece(os.path.join(self._folder, file.path), file, offset, content)

    def finish(self, file: WantedFile) -> None:
        descriptor = os.open(os.path.join(self._folder, file.path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _dress(descriptor, file)
        finally:
            os.close(descriptor)


class _Nowhere:
    """Nowhere: it is only checked."""

    def whole(self, file: WantedFile, content: memoryview) -> None:
        pass

    def piece(self, file: WantedFile, offset: int, content: memoryview) -> None:
        pass

    def finish(self, file: WantedFile) -> None:
        pass


class _Fetch:
    """One running load. Its methods belong to one event loop."""

    def __init__(
        self, store: Store, files: Sequence[WantedFile], sink: _Sink, on: str, on_fetched: OnFetched, memory_bytes: int
    ) -> None:
        self._store = store
        self._files = files
        self._sink = sink
        self._on = on
        self._on_fetched = on_fetched
        self._reads = plan_reads(files)
        self._budget = Budget(memory_bytes)
        self._buffers = PartBuffers()
        self._sums: dict[int, dict[int, tuple[int, int]]] = {}

    def tell_empty(self) -> None:
        """Tell of the files that no range will bring."""
        self._on_fetched(0, sum(not file.size_bytes for file in self._files))

    async def read(self, ready: MemoryObjectSendStream[_Arrived]) -> None:
        """Read ranges until none is left; each is held until it is written."""
        with ready:
            for read in self._reads:
                async with self._budget.hold(read.size_bytes):
                    if read.size_bytes < BUFFER_FROM_BYTES:
                        await self._bring(read, None, ready)
                        continue
                    buffer = self._buffers.lend(read.size_bytes)
                    try:
                        await self._bring(read, buffer, ready)
                    finally:
                        self._buffers.give_back(buffer)

    async def _bring(self, read: RangeRead, buffer: memoryview | None, ready: MemoryObjectSendStream[_Arrived]) -> None:
        try:
            if buffer is None:
                content = memoryview(await self._store.get(read.key, offset=read.offset, size_bytes=read.size_bytes))
            else:
                found_bytes = await self._store.get_into(read.key, buffer[: read.size_bytes], offset=read.offset)
                content = buffer[:found_bytes]
        except StoreObjectMissing:
            file = self._files[read.pieces[0].file_index]
            raise self._damaged(f"file {file.path!r} ({file.size_bytes} bytes) is missing in the store") from None
        if len(content) < read.size_bytes:
            piece = next(piece for piece in read.pieces if piece.inside + piece.size_bytes > len(content))
            file = self._files[piece.file_index]
            end = piece.file_offset + max(0, len(content) - piece.inside)
            raise self._damaged(f"file {file.path!r} should have {file.size_bytes} bytes, it ends at {end}")
        arrived = _Arrived(read, content)
        await ready.send(arrived)
        await arrived.written.wait()
        finished = 0
        for piece, crc in zip(read.pieces, arrived.sums, strict=True):
            finished += await self._note(piece, crc)
        self._on_fetched(sum(piece.size_bytes for piece in read.pieces), finished)

    async def write(self, arriving: MemoryObjectReceiveStream[_Arrived]) -> None:
        """Write what arrives until nothing more does: as much at once as has come, for a thread costs more than a small file."""
        with arriving:
            async for arrived in arriving:
                taken, size_bytes = [arrived], len(arrived.content)
                while size_bytes < WRITE_BYTES:
                    try:
                        taken.append(arriving.receive_nowait())
                    except (anyio.WouldBlock, anyio.EndOfStream):
                        break
                    size_bytes += len(taken[-1].content)
                await anyio.to_thread.run_sync(self._write_all, taken)
                for one in taken:
                    one.written.set()

    def _write_all(self, taken: Sequence[_Arrived]) -> None:
        for arrived in taken:
            for piece in arrived.read.pieces:
                file = self._files[piece.file_index]
                content = arrived.content[piece.inside : piece.inside + piece.size_bytes]
                crc = crc32(content)
                arrived.sums.append(crc)
                if piece.size_bytes == file.size_bytes:
                    self._check(file, crc)
                    self._sink.whole(file, content)
                else:
                    self._sink.piece(file, piece.file_offset, content)

    async def _note(self, piece: Piece, crc: int) -> bool:
        """Check and finish a file of several pieces with the last of them; returns whether a file is whole now."""
        file = self._files[piece.file_index]
        if piece.size_bytes == file.size_bytes:
            return True
        sums = self._sums.setdefault(piece.file_index, {})
        sums[piece.file_offset] = (piece.size_bytes, crc)
        if len(sums) == pieces_of(file):
            del self._sums[piece.file_index]
            await anyio.to_thread.run_sync(self._finish, file, sums)
            return True
        return False

    def _finish(self, file: WantedFile, sums: dict[int, tuple[int, int]]) -> None:
        whole = 0
        for _, (size_bytes, crc) in sorted(sums.items()):
            whole = crc32_combine(whole, crc, size_bytes)
        self._check(file, whole)
        self._sink.finish(file)

    def _check(self, file: WantedFile, crc: int) -> None:
        if file.digest and format_digest(crc) != file.digest:
            raise self._damaged(f"file {file.path!r} should have the digest {file.digest}, it has {format_digest(crc)}")

    def _damaged(self, cause: str) -> CheckpointDamaged:
        return CheckpointDamaged("load a checkpoint", on=self._on, cause=cause, hint=_HINT)


def _prepare(files: Sequence[WantedFile], folder: str) -> None:
    """Make the folders, and the files that no range will bring."""
    for parent in sorted({os.path.dirname(file.path) for file in files}):
        os.makedirs(os.path.join(folder, parent), exist_ok=True)
    for file in files:
        if not file.size_bytes:
            _write_whole(os.path.join(folder, file.path), file, memoryview(b""))


def _write_whole(path: str, file: WantedFile, content: memoryview) -> None:
    descriptor = _create(path, file, os.O_EXCL)
    try:
        _write_at(descriptor, 0, content)
        _dress(descriptor, file)
    finally:
        os.close(descriptor)


def _write_piece(path: str, file: WantedFile, offset: int, content: memoryview) -> None:
    # Whichever of its pieces comes first makes the file.
    descriptor = _create(path, file, os.O_NOFOLLOW)
    try:
        _write_at(descriptor, offset, content)
    finally:
        os.close(descriptor)


def _create(path: str, file: WantedFile, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666 if file.mode is None else 0o600)


def _write_at(descriptor: int, offset: int, content: memoryview) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _dress(descriptor: int, file: WantedFile) -> None:
    if file.mode is not None:
        os.fchmod(descriptor, file.mode)
    if file.mtime_ns is not None:
        os.utime(descriptor, ns=(file.mtime_ns, file.mtime_ns))
