"""A store in a container of Azure Blob Storage."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from azure.core import MatchConditions

from ckpt_async.stores.azure.access import AzureAccess
from ckpt_async.stores.azure.client import AzureClient, NoRanges, md5_of
from ckpt_async.stores.azure.errors import code_of, translate_azure, translate_code
from ckpt_async.stores.contract import Body, CopySource, ListPage, ObjectInfo, Part, Store, StoreTraits, Uploads
from ckpt_async.stores.failures import damaged, worst
from ckpt_async.stores.in_threads import Call, Caller
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.stores.upload_marks import HIDDEN_FOLDER, UploadMarks, check_open_key
from ckpt_async.words.errors import (
    StoreError,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)

__all__ = ["AzureStore"]

MIB = 1 << 20
DELETE_AT_ONCE = 256
#: Larger objects are sent as a block that is then committed: the library would join them in memory.
SMALL_BYTES = 4 * MIB
COPY_POLL_S = (0.1, 2.0)
ABORT_TIMEOUT_S = 5.0
#: The server got other bytes than the checksum belongs to.
_OTHER_BYTES = ("Md5Mismatch", "InvalidMd5")
_BLOCK_GONE = ("InvalidBlockList", "InvalidBlockId", "BlockListTooLong")
# The server can't do what is asked of it.
_NOT_KNOWN = (501, 405)

T = TypeVar("T")


class AzureStore(Store):
    """Block blobs in a container, below a prefix.

    Each object and part is sent with its MD5, which the server checks. A part is a block, of which nothing is seen until it is
    committed. Blocks that never are, Azure deletes after a week; there is no call that does it sooner.

    Parameters
    ----------
    container : str
        Its name.
    prefix : str
        In front of every key; without slashes at its ends.
    access : AzureAccess or callable
        How it is reached, or what returns that: called in a thread, with the first request.
    pace : Pace
        For the bodies that are sent.
    """

    def __init__(self, container: str, prefix: str, access: AzureAccess | Callable[[], AzureAccess], pace: Pace = UNPACED) -> None:
        self._container = container
        self._base = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        make_access: Callable[[], AzureAccess] = (lambda: access) if isinstance(access, AzureAccess) else access
        self._caller: Caller[AzureClient] = Caller(lambda: AzureClient(container, make_access()), translate_azure, pace)
        self._marks = UploadMarks(self._put, self._look, self._read, self._remove, self._page)
        self._traits = StoreTraits(
            url=f"azure://{container}/{self._base}".rstrip("/"),
            min_part_bytes=1,
            max_part_bytes=4000 * MIB,
            max_parts=50_000,
            unfinished="its blocks are kept, and paid for, until Azure deletes them, a week after the last one",
        )

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    async def __aenter__(self) -> AzureStore:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._caller.close()

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        check_open_key(key)
        condition: dict[str, Any] = {}
        if if_match is not None:
            condition = {"etag": if_match, "match_condition": MatchConditions.IfNotModified}
        if if_absent:
            condition = {"match_condition": MatchConditions.IfMissing}
        try:
            return await self._put(key, body, condition)
        except StoreObjectMissing as error:
            # An answer to a condition on an object that isn't there.
            raise StorePreconditionFailed(error.attempted, on=error.on, cause=error.cause) from error

    async def _put(self, key: str, body: Body, condition: Mapping[str, Any] | None = None) -> ObjectInfo:
        condition = condition or {}
        attempted = "store an object"
        if body.size_bytes <= SMALL_BYTES:
            etag = await self._send(
                attempted, key, body, lambda client, call: client.put(self._base + key, call.joined(body), condition)
            )
            return ObjectInfo(key, body.size_bytes, etag)
        block_id = _block_id(secrets.token_hex(12), 1, secrets.token_hex(16))
        await self._stage(attempted, key, block_id, body)
        try:
            etag = await self._call(attempted, key, lambda client, _: client.commit(self._base + key, [block_id], condition))
        except StoreRejected as error:
            if code_of(error.__cause__) not in _BLOCK_GONE:
                raise
            # Whoever stores an object drops the blocks of all others that are being stored under its key.
            raise StoreUnavailable(attempted, on=self._on(key), cause="another writer was faster") from error
        return ObjectInfo(key, body.size_bytes, etag)

    async def _stage(self, attempted: str, key: str, block_id: str, body: Body) -> bytes:
        """Store a block; return its MD5."""
        md5 = await anyio.to_thread.run_sync(md5_of, body.chunks)
        await self._send(attempted, key, body, lambda client, call: client.stage(call, self._base + key, block_id, body, md5))
        return md5

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        check_open_key(key)
        check_open_key(source.key)
        attempted = "copy an object"
        copy_id = await self._call(
            attempted, key, lambda client, _: client.begin_copy(self._base + key, self._base + source.key, source.etag)
        )
        try:
            wait_s, longest_s = COPY_POLL_S
            while True:
                found = await self._call(attempted, key, lambda client, _: client.look(self._base + key))
                # Within an account it is done at once, as a rule.
                if found.copy.id != copy_id or found.copy.status != "pending":
                    break
                await anyio.sleep(wait_s)
                wait_s = min(longest_s, wait_s * 2)
        except BaseException:
            await self._abort_copy(key, copy_id)
            raise
        if found.copy.id != copy_id or found.copy.status != "success" or found.size != source.size_bytes:
            cause = (
                f"the copy is {found.copy.status or 'another one'}, with {found.size} bytes; its original has {source.size_bytes}"
            )
            raise StoreRejected(attempted, on=self._on(key), cause=cause)
        return ObjectInfo(key, found.size, _quoted(found.etag))

    async def _abort_copy(self, key: str, copy_id: str) -> None:
        """Give up a copy that nobody waits for: until it has ended, nothing else can be stored under its key."""
        with anyio.move_on_after(ABORT_TIMEOUT_S, shield=True):
            try:
                await self._call("give a copy up", key, lambda client, _: client.abort_copy(self._base + key, copy_id))
            except StoreError:
                return  # It had ended, or it will.

    async def settle(self, keys: Sequence[str]) -> None:
        return None

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        check_open_key(key)
        if size_bytes == 0:
            # A range can't be empty.
            if await self._look(key) is None:
                raise StoreObjectMissing("read an object", on=self._on(key))
            return b""
        return await self._read(key, offset, size_bytes, if_match)

    async def _read(self, key: str, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        condition: dict[str, Any] = {}
        if if_match is not None:
            condition = {"etag": if_match, "match_condition": MatchConditions.IfNotModified}
        content = await self._call(
            "read an object", key, lambda client, call: client.read(call, self._base + key, offset, size_bytes, condition, None)
        )
        assert isinstance(content, bytes)
        return content

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        if not buffer:
            return await super().get_into(key, buffer, offset=offset)
        check_open_key(key)
        count = await self._call(
            "read an object", key, lambda client, call: client.read(call, self._base + key, offset, len(buffer), {}, buffer)
        )
        assert isinstance(count, int)
        return count

    async def head(self, key: str) -> ObjectInfo | None:
        check_open_key(key)
        return await self._look(key)

    async def _look(self, key: str) -> ObjectInfo | None:
        try:
            found = await self._call("look at an object", key, lambda client, _: client.look(self._base + key))
        except StoreObjectMissing:
            return None
        return ObjectInfo(key, found.size, _quoted(found.etag))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        found, token = await self.list_page(prefix)
        while token:
            more, token = await self.list_page(prefix, token)
            found += more
        return sorted(found, key=lambda info: info.key)

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        if prefix:
            check_open_key(prefix.removesuffix("/"))
        while True:
            found, token = await self._page(prefix, token)
            found = [info for info in found if not info.key.startswith(f"{HIDDEN_FOLDER}/")]
            if found or not token:
                return found, token

    async def _page(self, prefix: str, token: str) -> ListPage:
        blobs, token = await self._call("list objects", prefix, lambda client, _: client.below(self._base + prefix, token))
        found = []
        for blob in blobs:
            key = blob.name.removeprefix(self._base)
            if key and not key.endswith("/"):
                found.append(ObjectInfo(key, blob.size, _quoted(blob.etag), blob.last_modified.timestamp()))
        return found, token

    async def list_multipart(self, prefix: str) -> Uploads:
        return await self._marks.unfinished(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_open_key(key)
        await self._remove(keys)

    async def _remove(self, keys: Sequence[str]) -> None:
        # A batch with one name twice is refused.
        names = [self._base + key for key in dict.fromkeys(keys)]
        if len(names) == 1:
            try:
                await self._call("delete an object", keys[0], lambda client, _: client.delete(names[0]))
            except StoreObjectMissing:
                return
            return
        for start in range(0, len(names), DELETE_AT_ONCE):
            batch = names[start : start + DELETE_AT_ONCE]

            def act(client: AzureClient, _: Call, batch: Sequence[str] = batch) -> Sequence[tuple[str, int]]:
                return client.delete_batch(batch)

            answers = await self._call("delete objects", "", act)
            failures = [
                translate_code(code, status, "", "delete an object", self._on(name.removeprefix(self._base)))
                for name, (code, status) in zip(batch, answers, strict=True)
                if status >= 300
            ]
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
        # The name of a block says which bytes it holds, so that a part sent again never takes the place of one with others.
        etag = (await anyio.to_thread.run_sync(md5_of, body.chunks)).hex()
        await self._stage(attempted, key, _block_id(upload_id, number, etag), body)
        # Afterwards: it may have been given up meanwhile.
        await self._marks.check(attempted, key, upload_id, self._on(key))
        return Part(number, etag, body.size_bytes, body.crc32)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        check_open_key(key)
        check_open_key(source.key)
        attempted = "copy a part"
        if self._traits.copies != "ranges":
            raise StoreRejected(attempted, on=self._on(key), cause="the server does not copy ranges of an object")
        self._marks.check_id(attempted, key, upload_id, self._on(key))
        etag = f"copied--{secrets.token_hex(12)}"
        block_id = _block_id(upload_id, number, etag)
        try:
            await self._call(
                attempted,
                key,
                lambda client, _: client.stage_copy(
                    self._base + key, block_id, self._base + source.key, source.etag, source.offset, source.size_bytes
                ),
            )
        except StoreRejected as error:
            if isinstance(error.__cause__, NoRanges) or getattr(error.__cause__, "status_code", None) in _NOT_KNOWN:
                self._traits = dataclasses.replace(self._traits, copies="objects")
            raise
        await self._marks.check(attempted, key, upload_id, self._on(key))
        return Part(number, etag, source.size_bytes, source.crc32)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        check_open_key(key)
        attempted = "complete an upload"
        await self._marks.check(attempted, key, upload_id, self._on(key))
        block_ids = [_block_id(upload_id, part.number, part.etag) for part in sorted(parts, key=lambda part: part.number)]
        etag = await self._call(attempted, key, lambda client, _: client.commit(self._base + key, block_ids, {}))
        await self._marks.end(upload_id)
        return ObjectInfo(key, sum(part.size_bytes for part in parts), etag)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        check_open_key(key)
        try:
            self._marks.check_id("give an upload up", key, upload_id, self._on(key))
        except StoreObjectMissing:
            return
        await self._marks.end(upload_id)

    def _on(self, key: str) -> str:
        return f"azure://{self._container}/{self._base}{key}"

    async def _call(self, attempted: str, key: str, act: Callable[[AzureClient, Call], T]) -> T:
        return await self._caller.call(attempted, self._on(key), act)

    async def _send(self, attempted: str, key: str, body: Body, act: Callable[[AzureClient, Call], T]) -> T:
        """Make a call with a body."""
        try:
            return await self._call(attempted, key, act)
        except StoreRejected as error:
            # Azurite has another code for it.
            if code_of(error.__cause__) in _OTHER_BYTES or "contentMD5 doesn't match" in error.cause:
                raise damaged(error, body) from error.__cause__
            raise


def _block_id(upload_id: str, number: int, etag: str) -> str:
    """Return the name of a block. All of a blob are of one length: up to 64 bytes."""
    return f"{upload_id}-{number:05d}-{etag:0>32}"


def _quoted(etag: str) -> str:
    """Return an etag as other answers have it: a listing leaves the quotes out."""
    return etag if etag.startswith('"') else f'"{etag}"'
