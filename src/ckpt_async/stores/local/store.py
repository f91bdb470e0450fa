"""A store in a folder: an object is a file, its key the path."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import anyio.to_thread

from ckpt_async.stores.contract import (
    Body,
    CopySource,
    ListPage,
    ObjectInfo,
    Part,
    Store,
    StoreTraits,
    Uploads,
    check_key,
)
from ckpt_async.stores.local.copies import LocalCopies
from ckpt_async.stores.local.errors import translate_os_error
from ckpt_async.stores.local.files import TEMP_FOLDER, LocalFiles, etag_of
from ckpt_async.stores.local.uploads import LocalUploads, write_body
from ckpt_async.stores.pacing import UNPACED, Pace

__all__ = ["LocalStore"]

THREADS = 16
#: Objects up to this size are stored one after the other: each takes some 25 short system calls, and threads that take turns at
#: Python's lock after each of them need twice the CPU for the same.
SMALL_BYTES = 256 * 1024
#: Objects of a page: each page looks again through the folders that lead to where it begins.
PAGE_OBJECTS = 10_000
T = TypeVar("T")


class LocalStore(Store):
    """Objects as files below a root folder, with the mode of any new file, so that others can read them with their own means.

    A file is written under a temporary name, synced, renamed into place, and its folder (and those made for it) synced: once a
    call has returned, the object survives a crash of the machine, unless `put` was told that this can wait. Conditional writes hold
    against all writers of the same file system, in any process. A symbolic link to a place outside the root is never followed, nor
    listed.

    Parameters
    ----------
    root : str
        The folder. It must exist when the store is used; it is never made.
    url : str, optional
        The address as users see it; the root if left out.
    pace : Pace
        For what is written; a body is written in one go.
    """

    def __init__(self, root: str, url: str | None = None, pace: Pace = UNPACED) -> None:
        self._root = os.path.abspath(root)
        self._files = LocalFiles(self._root)
        self._uploads = LocalUploads(self._files)
        self._copies = LocalCopies(self._files, self._uploads)
        self._pace = pace
        self._threads: anyio.CapacityLimiter | None = None
        self._one_small: anyio.CapacityLimiter | None = None
        self._traits = StoreTraits(url=url or self._root, min_part_bytes=1, max_part_bytes=1 << 30, max_parts=1_000_000, far=False)

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    async def __aenter__(self) -> LocalStore:
        # A limiter of its own: whoever fills the common one, with copies of snapshots, does not hold up uploads.
        self._threads = anyio.CapacityLimiter(THREADS)
        self._one_small = anyio.CapacityLimiter(1)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Every call closes its own descriptors; a thread always ends before its call does.
        self._threads = self._one_small = None

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        def store() -> ObjectInfo:
            self._files.path(key)
            descriptor, temp_path = self._files.new_file()
            try:
                write_body(descriptor, 0, body)
                return self._files.publish(descriptor, temp_path, key, if_match=if_match, if_absent=if_absent, sync=durable)
            except BaseException:
                try:
                    os.unlink(temp_path)
                except FileNotFoundError:
                    # The failure came after the rename.
                    pass
                raise
            finally:
                os.close(descriptor)

        await self._pace.take(body.size_bytes)
        limiter = self._one_small if body.size_bytes <= SMALL_BYTES else self._threads
        return await self._run("store an object", key, store, limiter)

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        return await self._run("copy an object", key, lambda: self._copies.copy(key, source))

    async def settle(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        if keys:
            await self._run("bring objects to the disk itself", keys[0], lambda: self._files.settle(keys))

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        def read() -> bytes:
            with self._files.opened("read an object", key, if_match) as (descriptor, found):
                left = max(0, found.st_size - offset)
                return _read(descriptor, offset, left if size_bytes is None else min(size_bytes, left))

        return await self._run("read an object", key, read)

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        def read() -> int:
            with self._files.opened("read an object", key) as (descriptor, _):
                done = 0
                while done < len(buffer) and (count := os.preadv(descriptor, [buffer[done:]], offset + done)):
                    done += count
                return done

        return await self._run("read an object", key, read)

    async def head(self, key: str) -> ObjectInfo | None:
        def look() -> ObjectInfo | None:
            try:
                found = os.stat(self._files.real_path(key))
            except (FileNotFoundError, NotADirectoryError):
                if not os.path.isdir(self._root):
                    raise
                return None
            return ObjectInfo(key, found.st_size, etag_of(found)) if stat.S_ISREG(found.st_mode) else None

        return await self._run("look at an object", key, look)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        return await self._run("list objects", prefix, lambda: [*_walk(self._files, prefix)])

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        if prefix:
            check_key(prefix.removesuffix("/"))

        def take() -> ListPage:
            found = [*itertools.islice(_walk(self._files, prefix, token), PAGE_OBJECTS)]
            return found, found[-1].key if len(found) == PAGE_OBJECTS else ""

        return await self._run("list objects", prefix, take)

    async def list_multipart(self, prefix: str) -> Uploads:
        if prefix:
            check_key(prefix.removesuffix("/"))
        return await self._run("list unfinished uploads", prefix, lambda: self._uploads.unfinished(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)

        def remove() -> None:
            for key in keys:
                self._files.remove(key)

        await self._run("delete objects", keys[0] if len(keys) == 1 else "", remove)

    async def begin_multipart(self, key: str) -> str:
        return await self._run("begin an upload", key, lambda: self._uploads.begin(key))

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        await self._pace.take(body.size_bytes)
        return await self._run("store a part", key, lambda: self._uploads.put_part(key, upload_id, number, offset, body))

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        return await self._run("copy a part", key, lambda: self._copies.copy_part(key, upload_id, number, offset, source))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        return await self._run("complete an upload", key, lambda: self._uploads.complete(key, upload_id, parts))

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        await self._run("give an upload up", key, lambda: self._uploads.abort(key, upload_id))

    def _on(self, key: str) -> str:
        return os.path.join(self._root, key)

    async def _run(self, attempted: str, key: str, act: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
        def translated() -> T:
            try:
                return act()
            except OSError as error:
                raise translate_os_error(error, attempted, self._on(key), self._root) from error

        # Not abandoned on cancellation: the descriptor and the temporary file have their owner until the end.
        return await anyio.to_thread.run_sync(translated, limiter=limiter or self._threads)


def _walk(files: LocalFiles, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
    """Yield the objects below a prefix whose key sorts after `after`, sorted by key."""
    start = files.real_path(prefix.removesuffix("/")) if prefix else files.root
    todo = [iter(_entries(files, start, prefix, after))]
    while todo:
        for key, entry in todo[-1]:
            if key.endswith("/"):
                todo.append(iter(_entries(files, entry.path, key, after)))
                break
            if (info := _look(files, entry, key)) is not None:
                yield info
        else:
            todo.pop()


def _entries(files: LocalFiles, folder: str, base: str, after: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return what a folder holds, sorted by key: that of a folder ends with a slash, so that it sorts as the keys in it do."""
    found = []
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(files.root):
            raise
        # Removed meanwhile, or nothing under that prefix.
        return []
    with entries:
        for entry in entries:
            if not base and entry.name.startswith(TEMP_FOLDER):
                continue
            key = f"{base}{entry.name}/" if entry.is_dir(follow_symlinks=False) else base + entry.name
            if key > after or (key.endswith("/") and after.startswith(key)):
                found.append((key, entry))
    return sorted(found, key=lambda named: named[0])


def _look(files: LocalFiles, entry: os.DirEntry[str], key: str) -> ObjectInfo | None:
    try:
        if entry.is_symlink() and not files.is_inside(os.path.realpath(entry.path)):
            return None
        status = entry.stat()
    except FileNotFoundError:
        return None
    return ObjectInfo(key, status.st_size, etag_of(status), status.st_mtime) if stat.S_ISREG(status.st_mode) else None


def _read(descriptor: int, offset: int, size_bytes: int) -> bytes:
    pieces: list[bytes] = []
    while size_bytes:
        piece = os.pread(descriptor, size_bytes, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        size_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
