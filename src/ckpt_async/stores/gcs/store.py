"""A store in a bucket of Google Cloud Storage."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import anyio.to_thread

from ckpt_async.stores.contract import Body, CopySource, ListPage, ObjectInfo, Part, Store, StoreTraits, Uploads
from ckpt_async.stores.failures import damaged, worst
from ckpt_async.stores.gcs.access import GcsAccess
from ckpt_async.stores.gcs.client import GcsClient, crc32c_of
from ckpt_async.stores.gcs.errors import HINT_BUCKET, GcsRefusal, translate_gcs, translate_status
from ckpt_async.stores.gcs.joining import Sources, joined_to_few
from ckpt_async.stores.in_threads import Call, Caller
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.stores.upload_marks import HIDDEN_FOLDER, UploadMarks, check_open_key
from ckpt_async.words.errors import (
    StoreAccessDenied,
    StoreMissing,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
)

__all__ = ["GcsStore"]

MIB = 1 << 20
DELETE_AT_ONCE = 100
COMPOSE_AT_ONCE = 32
#: Names in the metadata of an object the upload that made it.
UPLOAD = "ckpt-async-upload"
_TIME = re.compile(r"(?P<second>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d)")

#: Inside the class, the name of a list means the method.
Infos = list[ObjectInfo]


class GcsStore(Store):
    """Objects in a bucket, below a prefix. An object's etag is its generation.

    Each object and part is sent with its CRC-32C, which the server checks. An upload in parts is a folder of objects, one for each
    part, that the server joins in the end (*compose*) and that are deleted then: parts may come in any order, at once, and from
    several processes, which a resumable upload does not allow. Joining sends nothing, and takes 32 objects at a time.

    Parameters
    ----------
    bucket : str
        Its name.
    prefix : str
        In front of every key; without slashes at its ends.
    access : GcsAccess or callable
        How it is reached, or what returns that: called in a thread, with the first request.
    pace : Pace
        For the bodies that are sent.
    """

    def __init__(self, bucket: str, prefix: str, access: GcsAccess | Callable[[], GcsAccess], pace: Pace = UNPACED) -> None:
        self._bucket = bucket
        self._base = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        make_access: Callable[[], GcsAccess] = (lambda: access) if isinstance(access, GcsAccess) else access
        self._caller: Caller[GcsClient] = Caller(lambda: GcsClient(bucket, make_access()), translate_gcs, pace)
        self._bucket_seen = False
        self._marks = UploadMarks(self._insert, self._look, self._read, self._remove, self._page)
        self._traits = StoreTraits(
            url=f"gs://{bucket}/{self._base}".rstrip("/"),
            min_part_bytes=1,
            max_part_bytes=5 * 1024 * MIB,
            max_parts=10_000,
            # A range of an object can't be copied, in whatever way.
            copies="objects",
        )

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    async def __aenter__(self) -> GcsStore:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._caller.close()

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        check_open_key(key)
        params = {"ifGenerationMatch": "0"} if if_absent else {}
        if if_match is not None:
            params = {"ifGenerationMatch": self._generation("store an object", key, if_match)}
        try:
            return await self._insert(key, body, params)
        except StoreObjectMissing as error:
            if not params:
                raise
            # An answer to a condition on an object that isn't there.
            raise StorePreconditionFailed(error.attempted, on=error.on, cause=error.cause) from error

    def _generation(self, attempted: str, key: str, etag: str) -> str:
        """Return the generation that an etag is. One that is none is that of no object."""
        if not etag.isdecimal() or int(etag) == 0:
            raise StorePreconditionFailed(attempted, on=self._on(key), cause=f"{etag!r} is the etag of no object here")
        return etag

    async def _insert(
        self, key: str, body: Body, params: Mapping[str, str] | None = None, attempted: str = "store an object"
    ) -> ObjectInfo:
        crc32c = await anyio.to_thread.run_sync(crc32c_of, body)
        try:
            found = await self._call(
                attempted, key, lambda client, call: client.insert(call, self._base + key, body, crc32c, params or {})
            )
        except StoreRejected as error:
            refusal = error.__cause__
            if isinstance(refusal, GcsRefusal) and "crc32c" in refusal.message.lower():
                raise damaged(error, body) from refusal
            raise
        if found.get("crc32c", crc32c) != crc32c:
            # A server that does not compare them.
            raise damaged(StoreRejected(attempted, on=self._on(key), cause="another checksum"), body)
        return self._info(found)

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        check_open_key(key)
        check_open_key(source.key)
        attempted = "copy an object"
        generation = self._generation(attempted, key, source.etag)

        def act(client: GcsClient, call: Call) -> tuple[Any, Any]:
            original = client.look(self._base + source.key)
            if str(original["generation"]) != generation:
                raise GcsRefusal(412, b"the object is not the expected one")
            return original, client.rewrite(call, self._base + source.key, self._base + key, generation)

        original, found = await self._call(attempted, key, act)
        for name in ("size", "crc32c"):
            if original.get(name) != found.get(name):
                cause = f"the copy has {name} {found.get(name)}, its original {original.get(name)}"
                raise StoreRejected(attempted, on=self._on(key), cause=cause)
        return self._info(found)

    async def settle(self, keys: Sequence[str]) -> None:
        return None

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        check_open_key(key)
        attempted = "read an object"
        if size_bytes == 0:
            # A range can't be empty.
            if await self._look(key) is None:
                raise StoreObjectMissing(attempted, on=self._on(key))
            return b""
        generation = None if if_match is None else self._generation(attempted, key, if_match)
        return await self._read(key, offset, None if size_bytes is None else offset + size_bytes, generation)

    async def _read(self, key: str, offset: int = 0, end: int | None = None, generation: str | None = None) -> bytes:
        content = await self._call(
            "read an object", key, lambda client, call: client.read(call, self._base + key, offset, end, generation, None)
        )
        assert isinstance(content, bytes)
        return content

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        if not buffer:
            return await super().get_into(key, buffer, offset=offset)
        check_open_key(key)
        end = offset + len(buffer)
        count = await self._call(
            "read an object", key, lambda client, call: client.read(call, self._base + key, offset, end, None, buffer)
        )
        assert isinstance(count, int)
        return count

    async def head(self, key: str) -> ObjectInfo | None:
        check_open_key(key)
        return await self._look(key)

    async def _look(self, key: str) -> ObjectInfo | None:
        try:
            return self._info(await self._call("look at an object", key, lambda client, _: client.look(self._base + key)))
        except StoreObjectMissing:
            return None

    async def list(self, prefix: str) -> Infos:
        if prefix:
            check_open_key(prefix.removesuffix("/"))
        return [info for info in await self._list("list objects", prefix) if not info.key.startswith(f"{HIDDEN_FOLDER}/")]

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        if prefix:
            check_open_key(prefix.removesuffix("/"))
        while True:
            found, token = await self._page(prefix, token)
            found = [info for info in found if not info.key.startswith(f"{HIDDEN_FOLDER}/")]
            if found or not token:
                return found, token

    async def list_multipart(self, prefix: str) -> Uploads:
        return await self._marks.unfinished(prefix)

    async def _list(self, attempted: str, prefix: str) -> Infos:
        found, token = await self._page(prefix, "", attempted)
        while token:
            more, token = await self._page(prefix, token, attempted)
            found += more
        return sorted(found, key=lambda info: info.key)

    async def _page(self, prefix: str, token: str, attempted: str = "list objects") -> ListPage:
        answer = await self._call(attempted, prefix, lambda client, _: client.page(self._base + prefix, token))
        # Some tools make empty objects that stand for folders; their names are no keys.
        infos = (self._info(item) for item in answer.get("items", ()) if not item["name"].endswith("/"))
        return [info for info in infos if info.key], answer.get("nextPageToken") or ""

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_open_key(key)
        await self._remove(keys)

    async def _remove(self, keys: Sequence[str]) -> None:
        names = [self._base + key for key in keys]
        for start in range(0, len(names), DELETE_AT_ONCE):
            batch = names[start : start + DELETE_AT_ONCE]

            def act(client: GcsClient, _: Call, batch: Sequence[str] = batch) -> Sequence[GcsRefusal]:
                if len(batch) > 1:
                    return client.delete_batch(batch)
                try:
                    client.delete(batch[0])
                except GcsRefusal as refusal:
                    return [refusal]
                return []

            on = keys[start] if len(batch) == 1 else ""
            refused = await self._call("delete objects", on, act)
            failures = [translate_status(one.status, one.reason, one.message, "delete an object", self._on(on)) for one in refused]
            failures = [failure for failure in failures if not isinstance(failure, StoreObjectMissing)]
            if failures:
                raise worst(failures)

    async def begin_multipart(self, key: str) -> str:
        check_open_key(key)
        return await self._marks.begin(key)

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        check_open_key(key)
        attempted = "store a part"
        self._marks.check_id(attempted, key, upload_id, self._on(key))
        path = _part_path(upload_id, number)
        info = await self._insert(path, body, attempted=attempted)
        try:
            # Afterwards: it may have been given up meanwhile.
            await self._marks.check(attempted, key, upload_id, self._on(key))
        except StoreObjectMissing:
            await self._remove([path])
            raise
        return Part(number, info.etag, body.size_bytes, body.crc32)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        check_open_key(key)
        check_open_key(source.key)
        raise StoreRejected("copy a part", on=self._on(key), cause="Google Cloud Storage copies whole objects alone")

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        check_open_key(key)
        attempted = "complete an upload"
        self._marks.check_id(attempted, key, upload_id, self._on(key))
        there = {info.key: info.etag for info in await self._list(attempted, self._marks.path(upload_id, ""))}
        if not any(self._marks.is_mark(path) for path in there):
            raise self._marks.unknown(attempted, self._on(key))
        ordered = sorted(parts, key=lambda part: part.number)
        named = [(_part_path(upload_id, part.number), part.etag) for part in ordered]
        if any(there.get(path) != etag for path, etag in named):
            # Joined by an earlier call, which was interrupted while it deleted the parts?
            info = await self._joined_before(key, upload_id)
            if info is None:
                raise StoreRejected(attempted, on=self._on(key), cause="a part is missing, or another one than the one named")
        else:
            info = await self._join(attempted, key, upload_id, named)
        size_bytes = sum(part.size_bytes for part in parts)
        if info.size_bytes != size_bytes:
            raise StoreRejected(
                attempted, on=self._on(key), cause=f"joined it has {info.size_bytes} bytes in place of {size_bytes}"
            )
        await self._forget(upload_id)
        return info

    async def _joined_before(self, key: str, upload_id: str) -> ObjectInfo | None:
        try:
            found = await self._call("look at an object", key, lambda client, _: client.look(self._base + key))
        except StoreObjectMissing:
            return None
        return self._info(found) if (found.get("metadata") or {}).get(UPLOAD) == upload_id else None

    async def _join(self, attempted: str, key: str, upload_id: str, sources: Sources) -> ObjectInfo:
        async def join(name: str, members: Sources) -> tuple[str, str]:
            path = self._marks.path(upload_id, name)
            return path, (await self._compose(attempted, path, members, {})).etag

        few = await joined_to_few(sources, COMPOSE_AT_ONCE, join)
        return await self._compose(attempted, key, few, {UPLOAD: upload_id})

    async def _compose(self, attempted: str, key: str, sources: Sources, metadata: Mapping[str, str]) -> ObjectInfo:
        named = [(self._base + path, etag) for path, etag in sources]
        try:
            return self._info(await self._call(attempted, key, lambda client, _: client.compose(named, self._base + key, metadata)))
        except (StoreObjectMissing, StorePreconditionFailed) as error:
            raise StoreRejected(attempted, on=self._on(key), cause=f"a part is gone, or another one ({error.cause})") from error

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        check_open_key(key)
        try:
            self._marks.check_id("give an upload up", key, upload_id, self._on(key))
        except StoreObjectMissing:
            return
        await self._forget(upload_id)

    async def _forget(self, upload_id: str) -> None:
        """Delete what belongs to an upload; the mark goes last, so that what is interrupted is found by a repetition."""
        left = [info.key for info in await self._list("free the parts of an upload", self._marks.path(upload_id, ""))]
        await self._remove([path for path in left if not self._marks.is_mark(path)])
        await self._marks.end(upload_id)

    def _on(self, key: str) -> str:
        return f"gs://{self._bucket}/{self._base}{key}"

    def _info(self, found: Mapping[str, Any]) -> ObjectInfo:
        key = found["name"].removeprefix(self._base)
        return ObjectInfo(key, int(found.get("size", 0)), str(found["generation"]), _unix_s(found.get("updated", "")))

    async def _call(self, attempted: str, key: str, act: Callable[[GcsClient, Call], Any]) -> Any:
        """Make one call; a 404 is told from that of a bucket that isn't there."""
        try:
            result = await self._caller.call(attempted, self._on(key), act)
        except StoreObjectMissing:
            if not self._bucket_seen:
                await self._look_for_bucket()
            raise
        self._bucket_seen = True
        return result

    async def _look_for_bucket(self) -> None:
        """Raise StoreMissing where there is no bucket of that name. By a listing: to look at the bucket itself needs another
        role.
        """
        try:
            await self._caller.call("look at the bucket", self._traits.url, lambda client, _: client.page(self._base, None, 1))
        except StoreObjectMissing as error:
            raise StoreMissing(
                "look at the bucket", on=self._traits.url, cause="there is no such bucket", hint=HINT_BUCKET
            ) from error
        except StoreAccessDenied:
            return  # Whoever may not list learns no more than that the object is missing.
        self._bucket_seen = True


def _unix_s(text: str) -> float | None:
    """Return a time that is written as in RFC 3339, of which Python 3.10 does not know every form; None for what is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    zone = "+00:00" if found["zone"] == "Z" else found["zone"]
    return datetime.datetime.fromisoformat(found["second"] + zone).timestamp() + float(found["fraction"] or 0)


def _part_path(upload_id: str, number: int) -> str:
    return UploadMarks.path(upload_id, f"{number:05d}")
