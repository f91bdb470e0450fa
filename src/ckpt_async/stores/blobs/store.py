"""A store over a few blocking calls: what works for a store of any kind, with what is missing done on this machine.

Conditions are looked at, not asked for; another writer may come between. The parts of an object are kept in a folder here until
all are there, then the object is saved from that: so an upload is known on one machine alone. Nothing is copied. What is read by
ranges is loaded as a whole, once.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

import anyio
import anyio.to_thread

from ckpt_async.disk import durable
from ckpt_async.disk.digests import crc32
from ckpt_async.stores.blobs.access import BlobsAccess
from ckpt_async.stores.blobs.loaded import LoadedBlobs
from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store, StoreTraits, check_key
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.stores.secrecy import clean
from ckpt_async.stores.tickets import Ticket
from ckpt_async.words.errors import (
    CheckpointError,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)

__all__ = ["BlobsStore"]

MIB = 1 << 20
THREADS = 16
#: Of objects up to this size the etag tells the content: pointers and records are such. Of others it tells the size alone.
SUMMED_BYTES = MIB
_UPLOAD = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{24})")

T = TypeVar("T")


class BlobsStore(Store):
    """Objects of whatever kind of store.

    Parameters
    ----------
    url : str
        The address as users see it.
    make_access : callable
        Returns how it is reached: called in a thread, with the first request.
    pace : Pace
        For what is saved; an object is saved in one go.
    folder : str, optional
        Where parts are kept until an object is whole. Default: one of this user's among the system's temporary files.
    """

    def __init__(self, url: str, make_access: Callable[[], BlobsAccess], pace: Pace = UNPACED, folder: str | None = None) -> None:
        self._url = url
        self._make_access = make_access
        self._access: BlobsAccess | None = None
        self._access_lock = threading.Lock()
        self._pace = pace
        self._threads: anyio.CapacityLimiter | None = None
        self._loaded = LoadedBlobs()
        self._folder = folder or _default_folder(url)
        #: Where the parts are: an object is made of them there first.
        self._parts = LocalStore(self._folder)
        self._traits = StoreTraits(
            url=url,
            min_part_bytes=1,
            max_part_bytes=1 << 30,
            max_parts=1_000_000,
            conditional_writes=False,
            far=False,
            copies="nothing",
            notices=(
                (
                    f"{url} is reached through its own storage class, in threads: a large file is put together in {self._folder} "
                    "before it is stored, and what has not changed is sent again."
                ),
            ),
        )

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    async def __aenter__(self) -> BlobsStore:
        self._threads = anyio.CapacityLimiter(THREADS)
        await self._parts.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with anyio.CancelScope(shield=True):
            await self._parts.__aexit__(kind, error, trace)
            await anyio.to_thread.run_sync(self._loaded.close)
        self._threads = None

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        check_key(key)
        attempted = "store an object"
        ticket = Ticket()

        def store(access: BlobsAccess) -> ObjectInfo:
            with ticket.hold():
                # A copy: this thread may outlive the call.
                content = b"".join(body.chunks)
            if if_match is not None or if_absent:
                found = _look(access, key)
                if (if_absent and found is not None) or (if_match is not None and (found is None or found.etag != if_match)):
                    raise StorePreconditionFailed(attempted, on=self._on(key), cause="the object there is not the expected one")
            with io.BytesIO(content) as file:
                access.blobs.save(key, file)
            self._loaded.forget(key)
            return ObjectInfo(key, body.size_bytes, _etag(body.size_bytes, body.crc32))

        await self._pace.take(body.size_bytes)
        try:
            return await self._run(attempted, key, store)
        finally:
            ticket.give_up()

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        check_key(key)
        check_key(source.key)
        raise StoreRejected("copy an object", on=self._on(key), cause="this kind of store does not copy")

    async def settle(self, keys: Sequence[str]) -> None:
        return None

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        check_key(key)
        attempted = "read an object"
        is_range = offset > 0 or size_bytes is not None

        def read(access: BlobsAccess) -> bytes:
            with self._loaded.use(key, access.blobs) if is_range else access.blobs.load(key) as path:
                if path is None:
                    raise StoreObjectMissing(attempted, on=self._on(key))
                with open(path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if if_match is not None and if_match != _etag_of_file(path, size):
                        raise StorePreconditionFailed(attempted, on=self._on(key), cause="it is not the expected one")
                    file.seek(offset)
                    return file.read(-1 if size_bytes is None else size_bytes)

        return await self._run(attempted, key, read)

    async def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        return await self._run("look at an object", key, lambda access: _look(access, key))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        found: list[ObjectInfo] = []
        keys = iter(await self._run("list objects", prefix, lambda access: _walk(access, prefix)))

        async def look() -> None:
            for key in keys:
                info = await self.head(key)
                # Deleted meanwhile, where there is none.
                if info is not None:
                    found.append(info)

        async with plain_task_group() as group:
            for _ in range(THREADS):
                group.start_soon(look)
        return sorted(found, key=lambda info: info.key)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)

        def remove(access: BlobsAccess) -> None:
            try:
                access.blobs.delete(keys)
            except NotImplementedError as error:
                cause = f"a storage class of Metaflow can't delete, that of {access.name!r} included"
                raise StoreRejected(
                    "delete objects", on=self._on(keys[0]), cause=cause, hint="Delete them by other means."
                ) from error
            for key in keys:
                self._loaded.forget(key)

        if keys:
            await self._run("delete objects", keys[0] if len(keys) == 1 else "", remove)

    async def begin_multipart(self, key: str) -> str:
        check_key(key)
        nonce = secrets.token_hex(8)
        await anyio.to_thread.run_sync(_make_folder, self._folder)
        return f"{nonce}.{await self._parts.begin_multipart(f'{nonce}/{key}')}"

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        path, upload = self._upload("store a part", key, upload_id)
        await self._pace.take(body.size_bytes)
        return await self._parts.put_part(path, upload, number, offset, body)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        check_key(key)
        check_key(source.key)
        raise StoreRejected("copy a part", on=self._on(key), cause="this kind of store does not copy")

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        attempted = "complete an upload"
        path, upload = self._upload(attempted, key, upload_id)
        try:
            await self._parts.complete_multipart(path, upload, parts)
        except StoreObjectMissing:
            # Put together by an earlier call, which could not save it?
            if await self._parts.head(path) is None:
                raise
        local_path = os.path.join(self._folder, path)

        def save(access: BlobsAccess) -> ObjectInfo:
            size_bytes = os.path.getsize(local_path)
            with open(local_path, "rb") as content:
                access.blobs.save(key, content)
            self._loaded.forget(key)
            return ObjectInfo(key, size_bytes, _etag_of_file(local_path, size_bytes))

        info = await self._run(attempted, key, save)
        await self._parts.delete([path])
        return info

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        check_key(key)
        try:
            path, upload = self._upload("give an upload up", key, upload_id)
        except StoreObjectMissing:
            return
        await self._parts.abort_multipart(path, upload)
        await self._parts.delete([path])

    def _upload(self, attempted: str, key: str, upload_id: str) -> tuple[str, str]:
        """Return key and id of an upload as the folder of parts knows it; raises StoreObjectMissing where there can't be one."""
        check_key(key)
        known = _UPLOAD.fullmatch(upload_id)
        # Its files may never have been here, or not be here any more.
        if known is None or not os.path.isdir(self._folder):
            raise StoreObjectMissing(attempted, on=self._on(key), cause="the upload is not known here (any more)")
        return f"{known[1]}/{key}", known[2]

    def _on(self, key: str) -> str:
        return f"{self._url}/{key}"

    async def _run(self, attempted: str, key: str, act: Callable[[BlobsAccess], T]) -> T:
        def translated() -> T:
            try:
                with self._access_lock:
                    if self._access is None:
                        self._access = self._make_access()
                return act(self._access)
            except CheckpointError:
                raise
            except Exception as error:
                # Whatever somebody else's class raises: nobody here knows what of it passes.
                cause = clean(f"{type(error).__name__}: {error}")
                raise StoreUnavailable(attempted, on=self._on(key), cause=cause) from error

        # Given up where the caller is cancelled: nobody knows how long a class of somebody else takes.
        return await anyio.to_thread.run_sync(translated, limiter=self._threads, abandon_on_cancel=True)


def _look(access: BlobsAccess, key: str) -> ObjectInfo | None:
    size_bytes = access.blobs.size(key)
    if size_bytes is None:
        return None
    if size_bytes > SUMMED_BYTES:
        return ObjectInfo(key, size_bytes, _etag(size_bytes, 0))
    with access.blobs.load(key) as path:
        if path is None:
            return None
        size_bytes = os.path.getsize(path)
        return ObjectInfo(key, size_bytes, _etag_of_file(path, size_bytes))


def _etag(size_bytes: int, crc: int) -> str:
    return f'"{size_bytes:x}-{crc:08x}"' if size_bytes <= SUMMED_BYTES else f'"{size_bytes:x}"'


def _etag_of_file(path: str, size_bytes: int) -> str:
    if size_bytes > SUMMED_BYTES:
        return _etag(size_bytes, 0)
    with open(path, "rb") as file:
        return _etag(size_bytes, crc32(file.read()))


def _walk(access: BlobsAccess, prefix: str) -> list[str]:
    found: list[str] = []
    todo = [prefix.removesuffix("/")]
    while todo:
        for key, is_content in access.blobs.entries(todo.pop()):
            if is_content:
                found.append(key)
            else:
                todo.append(key.removesuffix("/"))
    return found


def _default_folder(url: str) -> str:
    name = hashlib.sha256(url.encode()).hexdigest()[:12]
    return os.path.join(tempfile.gettempdir(), f"ckpt-async-{os.getuid()}-parts", name)


def _make_folder(folder: str) -> None:
    for path in (os.path.dirname(folder), folder):
        durable.make_private_folder(path)
