"""What the answers to copies mean; that real ones work is in the contract."""

from __future__ import annotations

import zlib

import pytest

from ckpt_async.stores.contract import CopySource
from ckpt_async.stores.crc32 import encode_crc32
from ckpt_async.words.errors import StoreRejected, StoreUnavailable
from tests.stores.scripted_server import Answer, Request, ScriptedServer
from tests.stores.test_s3_answers import store_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]

SUM = zlib.crc32(b"content")
SOURCE = CopySource("some where/ü", '"the-etag"', 3, 7, SUM)


def copied(etag: str, checksum: int | None = None) -> Answer:
    more = "" if checksum is None else f"<ChecksumCRC32>{encode_crc32(checksum)}</ChecksumCRC32>"
    return Answer(
        200, f"<CopyObjectResult><ETag>{etag}</ETag>{more}</CopyObjectResult>".encode(), {"Content-Type": "application/xml"}
    )


async def test_what_is_asked_for() -> None:
    with ScriptedServer([copied("new", SUM)]) as server:
        async with store_at(server.endpoint_url, server_side_encryption="AES256") as store:
            assert (await store.copy("k", SOURCE)).etag == '"new"'
            await store.copy_part("k", "full:up", 2, 16, SOURCE)
    whole, part = server.requests
    for request in (whole, part):
        assert request.headers["x-amz-copy-source"] == "bucket/root/some%20where/%C3%BC"
        assert request.headers["x-amz-copy-source-if-match"] == '"the-etag"'
        assert request.body == b""
    assert whole.headers["x-amz-server-side-encryption"] == "AES256" and whole.headers["x-amz-checksum-algorithm"] == "CRC32"
    assert part.headers["x-amz-copy-source-range"] == "bytes=3-9" and "partNumber=2" in part.path


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(Answer(200, b"", {"ETag": '"e"'}), "does not know copies"), (copied("e", SUM + 1), "another checksum")],
)
async def test_what_is_no_copy_of_these_bytes_is_refused(answer: Answer, cause: str) -> None:
    with ScriptedServer([answer]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreRejected, match=cause):
                await store.copy("k", SOURCE)
            with pytest.raises(StoreRejected, match=cause):
                await store.copy_part("k", "full:up", 1, 0, SOURCE)


@pytest.mark.parametrize(("etag", "found_bytes", "looks"), [("the-etag", 7, 0), ("other", 7, 1), ("other", 8, 1)])
async def test_a_copy_whose_answer_does_not_tell_its_content_is_looked_at(etag: str, found_bytes: int, looks: int) -> None:
    def script(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200, headers={"ETag": f'"{etag}"'}, promised=found_bytes)
        return copied(etag)

    with ScriptedServer(script) as server:
        async with store_at(server.endpoint_url) as store:
            if found_bytes == 7:
                assert (await store.copy("k", SOURCE)).size_bytes == 7
            else:
                with pytest.raises(StoreRejected, match="the copy has 8 bytes"):
                    await store.copy("k", SOURCE)
    assert [request.method for request in server.requests].count("HEAD") == looks


async def test_a_failure_after_the_status_of_success_may_pass() -> None:
    body = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
    with ScriptedServer([Answer(200, body, {"Content-Type": "application/xml"})]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreUnavailable):
                await store.copy("k", SOURCE)
