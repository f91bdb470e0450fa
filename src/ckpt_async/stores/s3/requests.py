"""The requests of an S3 store: composed for the server at hand, and composed anew when it turns out that it knows less."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

import anyio.to_thread

from ckpt_async.stores.contract import Body, StoreTraits
from ckpt_async.stores.crc32 import encode_crc32
from ckpt_async.stores.failures import damaged
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.calls import Caller, Way
from ckpt_async.stores.s3.dialect import (
    CHECKSUM_CRC32,
    CHECKSUM_MD5,
    CONDITIONS,
    Dialect,
    Lesson,
    Refusal,
    dialect_for,
    heeded,
    learn,
    overlooked,
)
from ckpt_async.stores.s3.errors import code_of, message_of
from ckpt_async.words.errors import StoreRejected

__all__ = ["Compose", "Requests", "encryption"]

#: The server got other bytes than the checksum belongs to.
_OTHER_BYTES = ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch")
#: Where an answer says that the server has done what was asked.
_CONFIRMING = {"ChecksumCRC32": "x-amz-checksum-crc32", "ServerSideEncryption": "x-amz-server-side-encryption"}
#: Up to this size a sum is computed at once: a thread costs more.
SMALL_BYTES = 64 * 1024

#: From a dialect to the parameters of a request; None where the dialect has no such request.
Compose = Callable[[Dialect], "dict[str, Any] | None"]
T = TypeVar("T")


def encryption(access: S3Access) -> dict[str, Any]:
    """Return the parameters of a request that makes an object: how it is encrypted."""
    found: dict[str, Any] = {}
    if access.server_side_encryption:
        found["ServerSideEncryption"] = access.server_side_encryption
    if access.sse_kms_key_id:
        found["SSEKMSKeyId"] = access.sse_kms_key_id
    if access.bucket_key is not None:
        found["BucketKeyEnabled"] = access.bucket_key
    return found


class Requests:
    """Sends what a store asks, and keeps what is learnt of the server.

    Parameters
    ----------
    bucket, base : str
        Of the store; `base` stands in front of every key.
    caller : Caller
        Carries requests out.
    traits : StoreTraits
        What is known of the store from the start.
    """

    def __init__(self, bucket: str, base: str, caller: Caller, traits: StoreTraits) -> None:
        self._bucket = bucket
        self._base = base
        self._caller = caller
        self._dialect: Dialect | None = None
        self._payer: dict[str, str] = {}
        #: Of the store, as far as they are known by now.
        self.traits = traits

    async def dialect(self) -> Dialect:
        """Return how the server is asked at the moment."""
        if self._dialect is None:
            access = await self._caller.access()
            if self._dialect is None:
                self._payer = {"RequestPayer": "requester"} if access.requester_pays else {}
                self.take(Lesson(dialect_for(access)))
        assert self._dialect is not None
        return self._dialect

    async def payer(self) -> dict[str, str]:
        """Return the parameters that go with every request for an object."""
        await self.dialect()
        return self._payer

    def take(self, lesson: Lesson) -> None:
        """Ask by what was learnt from now on; the user is told of each notice once."""
        self._dialect = lesson.dialect
        notices = self.traits.notices
        text = f"{self.traits.url}: {lesson.notice}"
        if lesson.notice and text not in notices:
            notices = (*notices, text)
        self.traits = dataclasses.replace(self.traits, conditional_writes=lesson.dialect.conditions == CONDITIONS, notices=notices)

    async def heeds(self, condition: str, *, refused: bool) -> None:
        """Note whether the server has refused a write whose condition did not hold."""
        self.take(heeded(await self.dialect(), condition, refused=refused))

    def full(self, key: str) -> str:
        """Return a key as the bucket has it."""
        return self._base + key

    def short(self, key: str) -> str:
        """Return a key of the bucket as the store has it."""
        return key.removeprefix(self._base)

    def on(self, key: str) -> str:
        """Return the name of an object, for errors."""
        return f"s3://{self._bucket}/{self._base}{key}"

    async def send(self, attempted: str, key: str, operation: str, compose: Compose) -> Any:
        """Send one request without data; returns its answer.

        A ``ContentMD5`` among the parameters has a batch of deletions protected by its MD5.

        Raises
        ------
        StoreRejected
            Also where the server does not know this request in any form: then `compose` returns None from now on.
        """

        async def act(params: dict[str, Any]) -> tuple[Any, Collection[str]]:
            with_md5 = params.pop("ContentMD5", None) is not None

            async def request(way: Way) -> Any:
                if with_md5:
                    way.client.events.register("before-sign.s3.DeleteObjects", _sum_by_md5, unique_id="ckpt-async-md5")
                return await way.client.call(operation, Bucket=self._bucket, **params)

            answer = await self._caller.call(attempted, self.on(key), request)
            # Of requests without data only those that make an object name an encryption.
            told = {**answer, **(answer.get("CopyObjectResult") or {})}
            return answer, {"ChecksumCRC32"} | {name for name in _CONFIRMING if told.get(name)}

        return await self._adapting(operation, compose, act)

    async def send_body(self, attempted: str, key: str, operation: str, body: Body, compose: Compose) -> str:
        """Send one request with a body and its checksum; returns the etag of what is stored now."""

        def with_sum(dialect: Dialect) -> dict[str, Any] | None:
            params = compose(dialect)
            if params is not None and dialect.checksum == CHECKSUM_CRC32:
                params["ChecksumCRC32"] = encode_crc32(body.crc32)
            elif params is not None and dialect.checksum == CHECKSUM_MD5:
                params["ContentMD5"] = ""  # Computed when it is sent.
            return params

        async def act(params: dict[str, Any]) -> tuple[str, Collection[str]]:
            if "ContentMD5" in params:
                params = {**params, "ContentMD5": await _md5_of(body)}

            async def request(way: Way) -> tuple[str, Collection[str]]:
                confirmed: Mapping[str, Any]
                if way.direct is not None and way.keys is not None:
                    answer = await way.direct.send(
                        operation, self._base + key, params, body.chunks, body.size_bytes, way.keys, way.how
                    )
                    etag = answer.headers.get("etag")
                    confirmed = {name: answer.headers.get(header) for name, header in _CONFIRMING.items()}
                else:
                    sent = await way.client.send(operation, body, way.how, Bucket=self._bucket, Key=self._base + key, **params)
                    etag, confirmed = sent.get("ETag"), sent
                if not etag:
                    raise ConnectionError("the answer names no ETag: something else than the store has given it")
                return str(etag), {name for name in _CONFIRMING if confirmed.get(name)}

            return await self._caller.call(attempted, self.on(key), request)

        try:
            return await self._adapting(operation, with_sum, act)
        except StoreRejected as error:
            if code_of(error.__cause__) in _OTHER_BYTES:
                raise damaged(error, body) from error.__cause__
            raise

    async def _adapting(
        self, operation: str, compose: Compose, act: Callable[[dict[str, Any]], Awaitable[tuple[T, Collection[str]]]]
    ) -> T:
        """Send a request, and send it in another form for as long as its refusals teach one. Each form is tried once."""
        params = compose(await self.dialect())
        assert params is not None, "asked of a server that is known not to know it"
        while True:
            try:
                result, confirmed = await act({**params, **self._payer})
            except StoreRejected as error:
                # Another request may have learnt it meanwhile.
                changed = compose(await self.dialect())
                if changed == params:
                    cause = error.__cause__
                    lesson = learn(await self.dialect(), Refusal(operation, tuple(params), code_of(cause), message_of(cause)))
                    if lesson is None:
                        raise
                    self.take(lesson)
                    changed = compose(lesson.dialect)
                if changed is None or changed == params:
                    raise
                params = changed
                continue
            for lesson in overlooked(await self.dialect(), tuple(params), confirmed):
                self.take(lesson)
            return result


def _sum_by_md5(request: Any, **_: object) -> None:
    """Give a request that botocore is about to sign an MD5 in place of its CRC-32."""
    for name in [name for name in request.headers if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-"))]:
        del request.headers[name]
    content = request.data if isinstance(request.data, bytes) else str(request.data).encode()
    request.headers["Content-MD5"] = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode("ascii")


async def _md5_of(body: Body) -> str:
    def compute() -> str:
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in body.chunks:
            md5.update(chunk)
        return base64.b64encode(md5.digest()).decode("ascii")

    # A cancellation waits for the thread: it reads memory that its owner uses again.
    return compute() if body.size_bytes <= SMALL_BYTES else await anyio.to_thread.run_sync(compute)
