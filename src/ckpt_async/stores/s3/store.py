"""A store in a bucket of S3, or of a server that speaks S3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ckpt_async.stores.contract import (
    Body,
    CopySource,
    ListPage,
    ObjectInfo,
    Part,
    Store,
    StoreTraits,
    UnfinishedUpload,
    Uploads,
    check_key,
)
from ckpt_async.stores.crc32 import combined_crc32, encode_crc32
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.calls import Caller, Way
from ckpt_async.stores.s3.client import ClientLibrary
from ckpt_async.stores.s3.copy import copied_etag, quoted, source_params, tells_content
from ckpt_async.stores.s3.dialect import CHECKSUM_CRC32, Dialect
from ckpt_async.stores.s3.errors import code_of
from ckpt_async.stores.s3.library import find_library
from ckpt_async.stores.s3.listing import delete_objects, list_objects, list_some, list_uploads
from ckpt_async.stores.s3.requests import Requests, encryption
from ckpt_async.words.errors import (
    StoreError,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)

__all__ = ["S3Store"]

MIB = 1 << 20
# What was agreed on when an upload began; in front of the id, since another process may go on with it.
FULL, EACH, NONE = "full:", "each:", "none:"


class S3Store(Store):
    """Objects in a bucket, below a prefix.

    Each object and part is sent with its CRC32, which the server checks; an object in parts is checked as a whole once more,
    where the server can (it says so when the upload begins). What the server can't do is found out (`s3_dialect`), and told in
    `traits.notices` where something is lost by it. One call is one request, apart from `list`, `delete` of more than 1000 keys, the
    first conditional writes, and what is repeated after credentials were renewed or something was found out: put
    `ckpt_async.stores.retrying.Retrying` around it.

    Parameters
    ----------
    bucket : str
        Its name.
    prefix : str
        In front of every key; without slashes at its ends.
    access : S3Access or callable
        How it is reached, or what returns that: called in a thread, with the first request.
    pace : Pace
        For the bodies that are sent.
    library : ClientLibrary, optional
        What makes the requests. Default: the best that is installed.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        access: S3Access | Callable[[], S3Access],
        pace: Pace = UNPACED,
        library: ClientLibrary | None = None,
    ) -> None:
        self._bucket = bucket
        self._base = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        library = library or find_library()
        traits = StoreTraits(
            url=f"s3://{bucket}/{self._base}".rstrip("/"),
            min_part_bytes=5 * MIB,
            max_part_bytes=5 * 1024 * MIB,
            max_parts=10_000,
            notices=(library.notice,) if library.notice else (),
        )
        make_access = (lambda: access) if isinstance(access, S3Access) else access
        self._caller = Caller(bucket, traits.url, library, make_access, pace)
        self._requests = Requests(bucket, self._base, self._caller, traits)

    @property
    def traits(self) -> StoreTraits:
        return self._requests.traits

    async def __aenter__(self) -> S3Store:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._caller.close()

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        check_key(key)
        extra = encryption(await self._caller.access())
        condition = ({} if if_match is None else {"IfMatch": if_match}) | ({"IfNoneMatch": "*"} if if_absent else {})

        def compose(dialect: Dialect) -> dict[str, Any]:
            return extra | {name: value for name, value in condition.items() if name in dialect.conditions}

        dialect = await self._requests.dialect()
        unproven = [name for name in condition if name not in dialect.proven]
        if unproven:
            # Until it is known that the server does so.
            await self._compare(key, if_match, if_absent)
        try:
            etag = await self._requests.send_body("store an object", key, "put_object", body, compose)
        except StoreObjectMissing as error:
            if not condition:
                raise
            # A server's answer to a condition on an object that isn't there.
            raise StorePreconditionFailed(error.attempted, on=error.on, cause=error.cause) from error
        # Written with the etag that was there, it may have that one still: then nothing would be seen.
        if unproven and etag != if_match:
            await self._prove(key, body, extra, {name: condition[name] for name in unproven})
        return ObjectInfo(key, body.size_bytes, etag)

    async def _compare(self, key: str, if_match: str | None, if_absent: bool) -> None:
        """Check a condition by looking, for a server that can't, or is not known to."""
        found = await self.head(key)
        if (if_absent and found is not None) or (if_match is not None and (found is None or found.etag != if_match)):
            raise StorePreconditionFailed("store an object", on=self._on(key), cause="the object there is not the expected one")

    async def _prove(self, key: str, body: Body, extra: dict[str, Any], condition: dict[str, Any]) -> None:
        """See whether the server heeds conditions: once more the write that has just been done, whose condition can't hold now.

        One that takes no notice stores the same bytes once more. It could undo what another writer has stored in between, once,
        which such a server can always do.
        """
        dialect = await self._requests.dialect()
        for name in condition.keys() & dialect.conditions:
            params = extra | {name: condition[name]}
            try:
                await self._requests.send_body("store an object", key, "put_object", body, lambda _, params=params: dict(params))  # type: ignore[misc]
            except StorePreconditionFailed:
                await self._requests.heeds(name, refused=True)
            except StoreError:
                # What was to be written is. The next conditional write asks again.
                return
            else:
                await self._requests.heeds(name, refused=False)

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        check_key(key)
        check_key(source.key)
        attempted, access = "copy an object", await self._caller.access()
        params = {"Key": self._requests.full(key)} | source_params(self._bucket, self._base, source) | encryption(access)

        def compose(dialect: Dialect) -> dict[str, Any]:
            return params | ({"ChecksumAlgorithm": "CRC32"} if dialect.checksum == CHECKSUM_CRC32 else {})

        answer = await self._requests.send(attempted, key, "copy_object", compose)
        result = answer.get("CopyObjectResult")
        info = ObjectInfo(key, source.size_bytes, copied_etag(result, source, attempted, self._on(key)))
        if not tells_content(result, info.etag, source):
            found = await self.head(key)
            if found is None or found.size_bytes != source.size_bytes:
                cause = f"the copy has {'no' if found is None else found.size_bytes} bytes, its original {source.size_bytes}"
                raise StoreRejected(attempted, on=self._on(key), cause=cause)
        return info

    async def settle(self, keys: Sequence[str]) -> None:
        return None

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        check_key(key)
        if size_bytes == 0:
            # A range can't be empty.
            if await self.head(key) is None:
                raise StoreObjectMissing("read an object", on=self._on(key))
            return b""
        extra: dict[str, Any] = {} if if_match is None else {"IfMatch": if_match}
        if offset > 0 or size_bytes is not None:
            extra["Range"] = f"bytes={offset}-" if size_bytes is None else f"bytes={offset}-{offset + size_bytes - 1}"

        return bytes(await self._get(key, extra, offset, size_bytes, None))

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        if not buffer:
            return await super().get_into(key, buffer, offset=offset)
        check_key(key)
        content = await self._get(key, {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}, offset, len(buffer), buffer)
        if isinstance(content, bytes):
            buffer[: len(content)] = content
        return len(content)

    async def _get(
        self, key: str, extra: dict[str, Any], offset: int, size_bytes: int | None, into: memoryview | None
    ) -> bytes | memoryview:
        """Read an object, or a range of it: into memory of the caller's, where that is given and the way allows it."""
        extra = extra | await self._requests.payer()

        async def read(way: Way) -> bytes | memoryview:
            content: bytes | memoryview
            if way.direct is not None and way.keys is not None:
                found = await way.direct.send("get_object", self._requests.full(key), extra, (), 0, way.keys, way.how, into)
                content, whole = found.body, "content-range" not in found.headers
            else:
                answer, content = await way.client.get(way.how.moved, Bucket=self._bucket, Key=self._requests.full(key), **extra)
                whole = "ContentRange" not in answer
                if len(content) != answer["ContentLength"]:
                    cause = f"the answer ended after {len(content)} of {answer['ContentLength']} bytes"
                    raise StoreUnavailable("read an object", on=self._on(key), cause=cause)
            if "Range" in extra and whole:
                # A server without ranges sends the whole.
                return content[offset : None if size_bytes is None else offset + size_bytes]
            return content

        try:
            return await self._caller.call("read an object", self._on(key), read)
        except StoreRejected as error:
            if code_of(error.__cause__) == "InvalidRange":
                # It begins behind the end of the object.
                return b""
            raise

    async def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        try:
            answer = await self._send("look at an object", key, "head_object")
        except StoreObjectMissing:
            # The answer to a HEAD has no body that would tell a missing object from a missing bucket.
            if not self._caller.bucket_seen:
                await self._caller.look_for_bucket()
            return None
        return ObjectInfo(key, answer["ContentLength"], quoted(answer["ETag"]))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        return await list_objects(self._requests, prefix)

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        if prefix:
            check_key(prefix.removesuffix("/"))
        return await list_some(self._requests, prefix, token)

    async def list_multipart(self, prefix: str) -> Uploads:
        if prefix:
            check_key(prefix.removesuffix("/"))
        try:
            found = await list_uploads(self._requests, prefix)
        except StoreRejected as error:
            if code_of(error.__cause__) in ("NotImplemented", "501"):
                return None
            raise
        # What was agreed on when one began is not told, and giving it up does not need it.
        return [UnfinishedUpload(key, NONE + upload_id, since_unix_s) for key, upload_id, since_unix_s in found]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        await delete_objects(self._requests, keys)

    async def begin_multipart(self, key: str) -> str:
        check_key(key)
        params = {"Key": self._requests.full(key)} | encryption(await self._caller.access())

        def compose(dialect: Dialect) -> dict[str, Any]:
            if dialect.checksum != CHECKSUM_CRC32:
                return params
            return params | {"ChecksumAlgorithm": "CRC32"} | ({"ChecksumType": "FULL_OBJECT"} if dialect.whole_checksum else {})

        answer = await self._requests.send("begin an upload", key, "create_multipart_upload", compose)
        agreed = NONE
        if answer.get("ChecksumAlgorithm") == "CRC32":
            agreed = FULL if answer.get("ChecksumType") == "FULL_OBJECT" else EACH
        return agreed + str(answer["UploadId"])

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        check_key(key)
        _, upload = self._upload("store a part", key, upload_id)
        params = {"UploadId": upload, "PartNumber": number}
        etag = await self._requests.send_body("store a part", key, "upload_part", body, lambda _: dict(params))
        return Part(number, etag, body.size_bytes, body.crc32)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        check_key(key)
        check_key(source.key)
        _, upload = self._upload("copy a part", key, upload_id)
        params = source_params(self._bucket, self._base, source)
        params["CopySourceRange"] = f"bytes={source.offset}-{source.offset + source.size_bytes - 1}"
        answer = await self._send("copy a part", key, "upload_part_copy", UploadId=upload, PartNumber=number, **params)
        etag = copied_etag(answer.get("CopyPartResult"), source, "copy a part", self._on(key))
        return Part(number, etag, source.size_bytes, source.crc32)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        check_key(key)
        agreed, upload = self._upload("complete an upload", key, upload_id)
        ordered = sorted(parts, key=lambda part: part.number)
        named: list[dict[str, Any]] = [{"PartNumber": part.number, "ETag": part.etag} for part in ordered]
        if agreed != NONE:
            for item, part in zip(named, ordered, strict=True):
                item["ChecksumCRC32"] = encode_crc32(part.crc32)
        extra: dict[str, Any] = {}
        if agreed == FULL:
            whole = combined_crc32((part.crc32, part.size_bytes) for part in ordered)
            extra = {"ChecksumCRC32": encode_crc32(whole), "ChecksumType": "FULL_OBJECT"}
        answer = await self._send(
            "complete an upload", key, "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": named}, **extra
        )
        return ObjectInfo(key, sum(part.size_bytes for part in parts), answer["ETag"])

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        check_key(key)
        try:
            _, upload = self._upload("give an upload up", key, upload_id)
            await self._send("give an upload up", key, "abort_multipart_upload", UploadId=upload)
        except StoreObjectMissing:
            return

    def _on(self, key: str) -> str:
        return self._requests.on(key)

    def _upload(self, attempted: str, key: str, upload_id: str) -> tuple[str, str]:
        for agreed in (FULL, EACH, NONE):
            if upload_id.startswith(agreed) and len(upload_id) > len(agreed):
                return agreed, upload_id.removeprefix(agreed)
        raise StoreObjectMissing(attempted, on=self._on(key), cause="that is no id of an upload")

    async def _send(self, attempted: str, key: str, operation: str, **params: Any) -> Any:
        """Send one request for a key that is the same for all servers."""
        return await self._requests.send(attempted, key, operation, lambda _: {"Key": self._requests.full(key), **params})
