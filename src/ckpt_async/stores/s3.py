"""A store in a bucket of S3, or of a server that speaks S3."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store, StoreTraits, check_key
from ckpt_async.stores.crc32 import combined_crc32, encode_crc32
from ckpt_async.stores.failures import damaged, worst
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.stores.s3_access import S3Access
from ckpt_async.stores.s3_calls import Caller, Way
from ckpt_async.stores.s3_client import ClientLibrary
from ckpt_async.stores.s3_copy import copied_etag, source_params, tells_content
from ckpt_async.stores.s3_errors import code_of, translate_code
from ckpt_async.stores.s3_library import find_library
from ckpt_async.words.errors import (
    StoreError,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)

__all__ = ["S3Store"]

MIB = 1 << 20
DELETE_AT_ONCE = 1000
# What was agreed on when an upload began; in front of the id, since another process may go on with it.
FULL, EACH, NONE = "full:", "each:", "none:"
# The server can't do what is asked of it.
_NOT_KNOWN = ("NotImplemented", "501")
# The server got other bytes than the checksum belongs to.
_OTHER_BYTES = ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch")


class S3Store(Store):
    """Objects in a bucket, below a prefix.

    Each object and part is sent with its CRC32, which the server checks; an object in parts is checked as a whole once more,
    where the server can (it says so when the upload begins). One call is one request, apart from `list`, `delete` of more than
    1000 keys, and one repetition after credentials were renewed: put `ckpt_async.stores.retrying.Retrying` around it.

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
        self._traits = StoreTraits(
            url=f"s3://{bucket}/{self._base}".rstrip("/"),
            min_part_bytes=5 * MIB,
            max_part_bytes=5 * 1024 * MIB,
            max_parts=10_000,
            notice=library.notice,
        )
        make_access = (lambda: access) if isinstance(access, S3Access) else access
        self._caller = Caller(bucket, self._traits.url, library, make_access, pace)

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    async def __aenter__(self) -> S3Store:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._caller.close()

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        check_key(key)
        extra = self._encryption(await self._caller.access())
        conditional = if_match is not None or if_absent
        if conditional and self._traits.conditional_writes:
            condition = ({} if if_match is None else {"IfMatch": if_match}) | ({"IfNoneMatch": "*"} if if_absent else {})
            try:
                etag = await self._send_body("store an object", key, "put_object", body, **extra, **condition)
                return ObjectInfo(key, body.size_bytes, etag)
            except StoreObjectMissing as error:
                # A server's answer to a condition on an object that isn't there.
                raise StorePreconditionFailed(error.attempted, on=error.on, cause=error.cause) from error
            except StoreRejected as error:
                if code_of(error.__cause__) not in _NOT_KNOWN:
                    raise
                # A server that speaks S3 without conditions. (One that does not know what else is asked says so once more.)
                self._traits = dataclasses.replace(self._traits, conditional_writes=False)
        if conditional:
            await self._compare(key, if_match, if_absent)
        return ObjectInfo(key, body.size_bytes, await self._send_body("store an object", key, "put_object", body, **extra))

    async def _compare(self, key: str, if_match: str | None, if_absent: bool) -> None:
        """Check a condition by looking, for a server that can't."""
        found = await self.head(key)
        if (if_absent and found is not None) or (if_match is not None and (found is None or found.etag != if_match)):
            raise StorePreconditionFailed("store an object", on=self._on(key), cause="the object there is not the expected one")

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        check_key(key)
        check_key(source.key)
        attempted, access = "copy an object", await self._caller.access()
        extra = self._encryption(access) | ({"ChecksumAlgorithm": "CRC32"} if access.checksums else {})
        answer = await self._send(attempted, key, "copy_object", **source_params(self._bucket, self._base, source), **extra)
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

        async def read(way: Way) -> bytes | memoryview:
            content: bytes | memoryview
            if way.direct is not None and way.keys is not None:
                found = await way.direct.send("get_object", self._base + key, extra, (), 0, way.keys, way.how, into)
                content, whole = found.body, "content-range" not in found.headers
            else:
                answer, content = await way.client.get(way.how.moved, Bucket=self._bucket, Key=self._base + key, **extra)
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
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"])

    async def list(self, prefix: str) -> list[ObjectInfo]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        found: list[ObjectInfo] = []
        extra: dict[str, Any] = {}
        while True:
            answer = await self._send_plain("list objects", prefix, "list_objects_v2", Prefix=self._base + prefix, **extra)
            for item in answer.get("Contents", ()):
                key = item["Key"].removeprefix(self._base)
                # Some tools make empty objects that stand for folders; their names are no keys.
                if not key.endswith("/") and key:
                    found.append(ObjectInfo(key, item["Size"], item["ETag"]))
            if not answer.get("IsTruncated"):
                return sorted(found, key=lambda info: info.key)
            extra = {"ContinuationToken": answer["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        for start in range(0, len(keys), DELETE_AT_ONCE):
            batch = [{"Key": self._base + key} for key in keys[start : start + DELETE_AT_ONCE]]
            answer = await self._send_plain("delete objects", "", "delete_objects", Delete={"Objects": batch, "Quiet": True})
            failures = [self._refused(item) for item in answer.get("Errors", ())]
            failures = [failure for failure in failures if not isinstance(failure, StoreObjectMissing)]
            if failures:
                raise worst(failures)

    def _refused(self, item: Mapping[str, str]) -> StoreError:
        on = self._on(item.get("Key", "").removeprefix(self._base))
        return translate_code(item.get("Code", ""), 0, item.get("Message", ""), "delete an object", on)

    async def begin_multipart(self, key: str) -> str:
        check_key(key)
        access = await self._caller.access()
        extra = self._encryption(access)
        if access.checksums:
            extra |= {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        answer = await self._send("begin an upload", key, "create_multipart_upload", **extra)
        agreed = NONE
        if answer.get("ChecksumAlgorithm") == "CRC32":
            agreed = FULL if answer.get("ChecksumType") == "FULL_OBJECT" else EACH
        return agreed + str(answer["UploadId"])

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        check_key(key)
        _, upload = self._upload("store a part", key, upload_id)
        etag = await self._send_body("store a part", key, "upload_part", body, UploadId=upload, PartNumber=number)
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
        return f"s3://{self._bucket}/{self._base}{key}"

    @staticmethod
    def _encryption(access: S3Access) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if access.server_side_encryption:
            found["ServerSideEncryption"] = access.server_side_encryption
        if access.sse_kms_key_id:
            found["SSEKMSKeyId"] = access.sse_kms_key_id
        return found

    def _upload(self, attempted: str, key: str, upload_id: str) -> tuple[str, str]:
        for agreed in (FULL, EACH, NONE):
            if upload_id.startswith(agreed) and len(upload_id) > len(agreed):
                return agreed, upload_id.removeprefix(agreed)
        raise StoreObjectMissing(attempted, on=self._on(key), cause="that is no id of an upload")

    async def _send(self, attempted: str, key: str, operation: str, **params: Any) -> Any:
        """Send one request for a key."""
        return await self._send_plain(attempted, key, operation, Key=self._base + key, **params)

    async def _send_plain(self, attempted: str, on: str, operation: str, **params: Any) -> Any:
        """Send one request for the bucket."""

        async def act(way: Way) -> Any:
            return await way.client.call(operation, Bucket=self._bucket, **params)

        return await self._caller.call(attempted, self._on(on), act)

    async def _send_body(self, attempted: str, key: str, operation: str, body: Body, **params: Any) -> str:
        """Send one request with a body; returns the etag of what is stored now."""
        if (await self._caller.access()).checksums:
            params["ChecksumCRC32"] = encode_crc32(body.crc32)

        async def act(way: Way) -> str:
            if way.direct is not None and way.keys is not None:
                answer = await way.direct.send(operation, self._base + key, params, body.chunks, body.size_bytes, way.keys, way.how)
                etag = answer.headers.get("etag")
            else:
                sent = await way.client.send(operation, body, way.how, Bucket=self._bucket, Key=self._base + key, **params)
                etag = sent.get("ETag")
            if not etag:
                raise ConnectionError("the answer names no ETag: something else than the store has given it")
            return str(etag)

        try:
            return await self._caller.call(attempted, self._on(key), act)
        except StoreRejected as error:
            if code_of(error.__cause__) in _OTHER_BYTES:
                raise damaged(error, body) from error.__cause__
            raise
