"""S3 beyond the contract, against a real server: permissions, buckets, checksums, what goes over the line."""

from __future__ import annotations

import os
import zlib
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import pytest
from botocore import auth, httpchecksum

from ckpt_async.stores.access import load_access
from ckpt_async.stores.contract import Body, Part, Store
from ckpt_async.stores.limiting import Limiting
from ckpt_async.stores.retrying import Retrying
from ckpt_async.stores.s3.access import S3Access, S3Credentials
from ckpt_async.stores.s3.aio import AIOBOTOCORE
from ckpt_async.stores.s3.body import RequestBody
from ckpt_async.stores.s3.client import ClientLibrary
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.testing.ports import free_ports
from ckpt_async.testing.seaweed import SeaweedIdentity, SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from ckpt_async.words.errors import (
    CheckpointError,
    StoreAccessDenied,
    StoreMissing,
    StoreRejected,
    StoreUnavailable,
    UnsupportedStore,
)
from tests.conftest import Unblocked
from tests.fixtures_s3 import S3Place

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]
MIB = 1 << 20

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "put": lambda store: store.put("k", Body.of(b"x")),
    "get": lambda store: store.get("k"),
    "head": lambda store: store.head("k"),
    "list": lambda store: store.list(""),
    "delete": lambda store: store.delete(["k"]),
    "begin": lambda store: store.begin_multipart("k"),
}


def part_body(size_bytes: int) -> Body:
    """A body of many pieces, as the uploader makes them."""
    chunks = tuple(os.urandom(min(MIB, size_bytes - start)) for start in range(0, size_bytes, MIB))
    crc = 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
    return Body(chunks, size_bytes, crc)


@pytest.mark.parametrize("name", CALLS)
async def test_there_is_no_such_bucket(s3_place: S3Place, name: str) -> None:
    async with S3Store("there-is-no-such-bucket", "", s3_place.access()) as store:
        with pytest.raises(StoreMissing, match="there-is-no-such-bucket"):
            await CALLS[name](store)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "identity",
    [
        SeaweedIdentity("nobody", "unknown-key", "some-secret", ()),
        SeaweedIdentity("liar", SeaweedServer.admin.access_key, "wrong-secret", ()),
    ],
    ids=lambda identity: str(identity.name),
)
async def test_wrong_credentials(s3_place: S3Place, name: str, identity: SeaweedIdentity) -> None:
    async with s3_place.store(identity=identity) as store:
        with pytest.raises(StoreAccessDenied) as caught:
            await CALLS[name](store)
    assert identity.secret_key not in str(caught.value)


async def test_a_reader_may_not_write(s3_place: S3Place) -> None:
    async with s3_place.store() as admin, s3_place.store(identity=s3_place.server.reader) as reader:
        await admin.put("k", Body.of(b"content"))
        assert await reader.get("k") == b"content"
        assert [info.key for info in await reader.list("")] == ["k"]
        for name in ("put", "delete", "begin"):
            with pytest.raises(StoreAccessDenied):
                await CALLS[name](reader)
        assert await admin.get("k") == b"content"


async def test_entering_and_leaving_needs_no_server(s3_place: S3Place) -> None:
    async with s3_place.store(endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}") as store:
        with pytest.raises(StoreUnavailable):
            await store.list("")


async def test_a_prefix_is_a_world_of_its_own(s3_place: S3Place) -> None:
    access = s3_place.access()
    async with (
        S3Store(s3_place.bucket, f"/{s3_place.prefix}/", access) as inner,
        S3Store(s3_place.bucket, s3_place.prefix.split("/")[0], access) as outer,
    ):
        assert inner.traits.url == s3_place.url
        await inner.put("k", Body.of(b"x"))
        assert [info.key for info in await outer.list("")] == ["root/k"]
        assert await outer.get("root/k") == b"x"


async def test_the_server_checks_the_checksum(s3_place: S3Place) -> None:
    async with s3_place.store() as store:
        wrong = Body((b"content",), 7, 12345)
        with pytest.raises(StoreRejected, match="changed in memory"):
            await store.put("k", wrong)
        assert await store.head("k") is None
        upload_id = await store.begin_multipart("m")
        with pytest.raises(StoreRejected, match="changed in memory"):
            await store.put_part("m", upload_id, 1, 0, wrong)
        part = await store.put_part("m", upload_id, 1, 0, Body.of(b"content"))
        with pytest.raises(StoreRejected):
            await store.complete_multipart("m", upload_id, [Part(1, part.etag, 7, 12345)])
        await store.complete_multipart("m", upload_id, [part])


async def test_the_whole_object_has_a_checksum(s3_place: S3Place) -> None:
    async with s3_place.store() as store:
        upload_id = await store.begin_multipart("m")
        assert upload_id.startswith("full:")
        bodies = [part_body(5 * MIB + 3), part_body(6 * MIB), part_body(1)]
        parts, offset = [], 0
        for number, body in enumerate(bodies, 1):
            parts.append(await store.put_part("m", upload_id, number, offset, body))
            offset += body.size_bytes
        # The server compares it with what it has: a wrong combination would be refused.
        await store.complete_multipart("m", upload_id, parts)
        assert await store.get("m") == b"".join(chunk for body in bodies for chunk in body.chunks)


async def test_without_checksums(s3_place: S3Place) -> None:
    async with s3_place.store(checksums="off") as store:
        upload_id = await store.begin_multipart("m")
        assert upload_id.startswith("none:")
        part = await store.put_part("m", upload_id, 1, 0, Body.of(b"content"))
        await store.complete_multipart("m", upload_id, [part])
        assert await store.get("m") == b"content"


#: Anything that the direct path does not know makes requests go botocore's way.
BY_BOTOCORE = {"user_agent_extra": "by-the-test"}


async def test_nothing_passes_over_the_payload_twice(
    s3_place: S3Place, monkeypatch: pytest.MonkeyPatch, each_library: ClientLibrary
) -> None:
    """Neither the client's checksum nor its signature reads the body: the CRC32 that we have is enough."""
    hashed: list[int] = []
    sha256 = auth.sha256

    def count_sha256(data: bytes = b"") -> object:
        hashed.append(len(data))
        return sha256(data)

    def refuse(*args: object) -> object:
        raise AssertionError("the client reads the body by itself")

    monkeypatch.setattr(auth, "sha256", count_sha256)
    if each_library is AIOBOTOCORE:
        monkeypatch.setattr(RequestBody, "read", refuse)
    monkeypatch.setattr(httpchecksum.Crc32Checksum, "update", refuse)
    body = part_body(6 * MIB)
    async with s3_place.store(client_params=BY_BOTOCORE) as store:
        await store.put("k", body)
        upload_id = await store.begin_multipart("m")
        part = await store.put_part("m", upload_id, 1, 0, body)
        await store.complete_multipart("m", upload_id, [part])
        assert await store.get("m") == b"".join(body.chunks)
    # What is hashed is the text of requests.
    assert max(hashed, default=0) < 10_000


@pytest.fixture
def six_bodies() -> list[Body]:
    return [part_body(5 * MIB) for _ in range(6)]


@pytest.mark.parametrize("params", [{}, BY_BOTOCORE], ids=["direct", "botocore"])
async def test_big_bodies_at_once_do_not_block_the_loop(
    s3_place: S3Place, six_bodies: list[Body], unblocked: Unblocked, params: dict[str, str]
) -> None:
    async def put_and_get(_: int) -> None:
        async with Limiting(s3_place.store(client_params=params), 4) as store:
            async with anyio.create_task_group() as group:
                for number, body in enumerate(six_bodies):
                    group.start_soon(store.put, f"k/{number}", body)
            for number, body in enumerate(six_bodies):
                content = await store.get(f"k/{number}")
                # Not in the loop, of which it would be the test that blocks it.
                assert await anyio.to_thread.run_sync(zlib.crc32, content) == body.crc32

    await unblocked(put_and_get)


async def test_server_side_encryption_is_accepted(s3_place: S3Place) -> None:
    async with s3_place.store(server_side_encryption="AES256") as store:
        await store.put("k", Body.of(b"content"))
        upload_id = await store.begin_multipart("m")
        part = await store.put_part("m", upload_id, 1, 0, Body.of(b"content"))
        await store.complete_multipart("m", upload_id, [part])
        assert await store.get("k") == await store.get("m") == b"content"


async def test_a_server_that_stands_still(s3_place: S3Place) -> None:
    """Connections stay open, nothing answers; then it goes on, and so does the call."""
    server = s3_place.server
    bare = s3_place.store(connect_timeout_s=0.5, read_timeout_s=0.5)
    told: list[int] = []
    troubled = anyio.Event()

    def tell(failures: int, error: CheckpointError | None) -> None:
        told.append(failures)
        troubled.set()

    async with Retrying(bare, on_trouble=tell) as store:
        await store.put("k", Body.of(b"before"))
        server.pause()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(store.put, "k", Body.of(b"after"))
                with anyio.fail_after(30):
                    await troubled.wait()
                server.resume()
        finally:
            server.resume()
        assert await store.get("k") == b"after"
    assert told == [1, 0]


async def test_a_cut_line_and_its_repair(s3_place: S3Place) -> None:
    told: list[int] = []
    troubled = anyio.Event()

    def tell(failures: int, error: CheckpointError | None) -> None:
        told.append(failures)
        if failures:
            troubled.set()

    body = part_body(8 * MIB)
    with SlowLine(s3_place.server.host, s3_place.server.port, bytes_per_s=16 * MIB) as line:
        bare = s3_place.store(endpoint_url=line.endpoint_url)
        async with Retrying(Limiting(bare, 2), on_trouble=tell) as store, anyio.create_task_group() as group:
            group.start_soon(store.put, "k", body)
            await anyio.to_thread.run_sync(line.wait_for_upstream, 2 * MIB)
            await anyio.to_thread.run_sync(line.cut)
            with anyio.fail_after(30):
                await troubled.wait()
            await anyio.to_thread.run_sync(line.restore)
    assert told == [1, 0]
    assert line.upstream_bytes > body.size_bytes + 2 * MIB
    async with s3_place.store() as store:
        assert await store.get("k") == b"".join(body.chunks)


@pytest.mark.parametrize("params", [{}, BY_BOTOCORE], ids=["direct", "botocore"])
async def test_a_cancelled_upload_closes_its_connection(s3_place: S3Place, params: dict[str, str]) -> None:
    """And it touches the memory of the body no more, which the next part is read into."""
    memory = bytearray(os.urandom(32 * MIB))
    body = Body((memoryview(memory),), len(memory), zlib.crc32(memory))
    with SlowLine(s3_place.server.host, s3_place.server.port, bytes_per_s=2 * MIB) as line:
        async with s3_place.store(endpoint_url=line.endpoint_url, checksums="off", client_params=params) as store:
            async with anyio.create_task_group() as group:
                group.start_soon(store.put, "k", body)
                await anyio.to_thread.run_sync(line.wait_for_upstream, MIB)
                group.cancel_scope.cancel()
            memory[:] = bytes(len(memory))
            line.set_rate(None)
            assert await store.head("k") is None
        assert line.upstream_bytes < 32 * MIB


def access_for_the_test() -> S3Access:
    return S3Access(credentials=lambda: S3Credentials("key", "secret"))


def no_access() -> str:
    return "nothing"


def failing_access() -> S3Access:
    raise RuntimeError("the password is 'swordfish'")


def test_access_by_name() -> None:
    assert load_access(f"{__name__}:access_for_the_test", S3Access).max_attempts == 1
    for spec in ("", "no.such.module:x", f"{__name__}:nothing", f"{__name__}:no_access", f"{__name__}", ":x"):
        with pytest.raises(UnsupportedStore):
            load_access(spec, S3Access)
    with pytest.raises(StoreUnavailable, match="RuntimeError") as caught:
        load_access(f"{__name__}:failing_access", S3Access)
    assert "swordfish" not in str(caught.value)


def test_no_credentials_in_a_repr() -> None:
    assert "secret" not in repr(S3Credentials("the-secret-1", "the-secret-2", "the-secret-3"))
    assert "lambda" not in repr(access_for_the_test())
