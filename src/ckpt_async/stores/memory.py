"""A store in memory, for tests and trials."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import anyio.lowlevel

from ckpt_async.stores.contract import (
    Body,
    CopySource,
    ObjectInfo,
    Part,
    Store,
    StoreTraits,
    UnfinishedUpload,
    Uploads,
    check_key,
)
from ckpt_async.words.errors import StoreObjectMissing, StorePreconditionFailed, StoreRejected

__all__ = ["MemoryObjects", "MemoryStore"]

TRAITS = StoreTraits(url="memory://", min_part_bytes=1, max_part_bytes=1 << 30, max_parts=10_000)


@dataclass
class _Upload:
    key: str
    since_unix_s: float = field(default_factory=time.time)
    parts: dict[int, bytes] = field(default_factory=dict)
    named: dict[int, Part] = field(default_factory=dict)


@dataclass
class MemoryObjects:
    """What several `MemoryStore` share: objects and unfinished uploads. Gone with the process."""

    contents: dict[str, tuple[bytes, ObjectInfo]] = field(default_factory=dict)
    uploads: dict[str, _Upload] = field(default_factory=dict)
    writes: int = 0

    def write(self, key: str, content: bytes) -> ObjectInfo:
        """Put an object there."""
        self.writes += 1
        info = ObjectInfo(key, len(content), f"memory-{self.writes}", time.time())
        self.contents[key] = (content, info)
        return info


class MemoryStore(Store):
    """A store whose objects are a dict.

    Parameters
    ----------
    objects : MemoryObjects, optional
        Objects to share with another store; fresh ones if left out.
    """

    def __init__(self, objects: MemoryObjects | None = None) -> None:
        self._objects = objects if objects is not None else MemoryObjects()

    @property
    def traits(self) -> StoreTraits:
        return TRAITS

    async def __aenter__(self) -> MemoryStore:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        # From here on nothing is awaited: no other task comes between the look and the write.
        there = self._objects.contents.get(key)
        if if_absent and there is not None:
            raise StorePreconditionFailed("store an object", on=key, cause="there is one already")
        if if_match is not None and (there is None or there[1].etag != if_match):
            raise StorePreconditionFailed("store an object", on=key, cause="the object there is not the expected one")
        return self._objects.write(key, b"".join(body.chunks))

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        return self._objects.write(key, self._bytes_of(source))

    def _bytes_of(self, source: CopySource) -> bytes:
        check_key(source.key)
        if source.key not in self._objects.contents:
            raise StoreObjectMissing("copy an object", on=source.key)
        content, info = self._objects.contents[source.key]
        if info.etag != source.etag or source.offset + source.size_bytes > info.size_bytes:
            raise StorePreconditionFailed("copy an object", on=source.key, cause="it is not the expected one")
        return content[source.offset : source.offset + source.size_bytes]

    async def settle(self, keys: Sequence[str]) -> None:
        return None

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        if key not in self._objects.contents:
            raise StoreObjectMissing("read an object", on=key)
        content, info = self._objects.contents[key]
        if if_match is not None and info.etag != if_match:
            raise StorePreconditionFailed("read an object", on=key, cause="it is not the expected one")
        return content[offset : None if size_bytes is None else offset + size_bytes]

    async def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        there = self._objects.contents.get(key)
        return None if there is None else there[1]

    async def list(self, prefix: str) -> list[ObjectInfo]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        await anyio.lowlevel.checkpoint()
        return [info for key, (_, info) in sorted(self._objects.contents.items()) if key.startswith(prefix)]

    async def list_multipart(self, prefix: str) -> Uploads:
        if prefix:
            check_key(prefix.removesuffix("/"))
        await anyio.lowlevel.checkpoint()
        found = [UnfinishedUpload(one.key, id_, one.since_unix_s) for id_, one in self._objects.uploads.items()]
        return [one for one in found if one.key.startswith(prefix)]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        await anyio.lowlevel.checkpoint()
        for key in keys:
            self._objects.contents.pop(key, None)

    async def begin_multipart(self, key: str) -> str:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        upload_id = uuid.uuid4().hex
        self._objects.uploads[upload_id] = _Upload(key)
        return upload_id

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        return self._put_part(key, upload_id, number, b"".join(body.chunks), body.crc32)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        return self._put_part(key, upload_id, number, self._bytes_of(source), source.crc32)

    def _put_part(self, key: str, upload_id: str, number: int, content: bytes, crc32: int) -> Part:
        upload = self._upload("store a part", key, upload_id)
        self._objects.writes += 1
        part = Part(number, f"part-{self._objects.writes}", len(content), crc32)
        upload.parts[number] = content
        upload.named[number] = part
        return part

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        upload = self._upload("complete an upload", key, upload_id)
        for part in parts:
            if upload.named.get(part.number) != part:
                raise StoreRejected("complete an upload", on=key, cause=f"part {part.number} is missing or another one")
        ordered = sorted(parts, key=lambda part: part.number)
        info = self._objects.write(key, b"".join(upload.parts[part.number] for part in ordered))
        del self._objects.uploads[upload_id]
        return info

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        check_key(key)
        await anyio.lowlevel.checkpoint()
        self._objects.uploads.pop(upload_id, None)

    def _upload(self, attempted: str, key: str, upload_id: str) -> _Upload:
        upload = self._objects.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise StoreObjectMissing(attempted, on=key, cause="the upload is not known (any more)")
        return upload
