"""Servers that know less of S3 than AWS does: what each refusal, and each answer that says too little, changes in what is asked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import pytest

from ckpt_async.stores.contract import Body, Part
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.dialect import CONDITIONS, Dialect, Refusal, dialect_for, heeded, learn, overlooked
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.words.errors import StoreAccessDenied, StoreBusy, StoreObjectMissing, StorePreconditionFailed, StoreRejected
from tests.stores.scripted_bucket import Bucket, md5_of, refusing, told
from tests.stores.scripted_server import Answer, Request, ScriptedServer, error_answer
from tests.stores.test_s3_answers import store_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]

NOT_IMPLEMENTED = "A header you provided implies functionality that is not implemented"
MD5 = {"checksum": "md5", "whole_checksum": False}
WITHOUT_CRC32 = Dialect(checksum="md5", whole_checksum=False)
EACH = {"whole_checksum": False}
CRC_NAMED = "Unsupported header 'x-amz-checksum-crc32' received for this API call."
MD5_WANTED = "Missing required header for this request: Content-Md5."


@pytest.mark.parametrize(
    ("operation", "asked", "code", "message", "changed"),
    [
        # Cloudflare R2 has a CRC-32 of each part alone.
        ("create_multipart_upload", "ChecksumType", "NotImplemented", "Header 'x-amz-checksum-type'", EACH),
        ("create_multipart_upload", "ChecksumType", "InvalidRequest", "FULL_OBJECT is not supported for CRC32", EACH),
        # Backblaze B2, earlier R2, S3Proxy.
        ("put_object", "ChecksumCRC32", "InvalidArgument", CRC_NAMED, MD5),
        ("upload_part", "ChecksumCRC32", "NotImplemented", "Header 'x-amz-checksum-crc32' not implemented", MD5),
        ("create_multipart_upload", "ChecksumAlgorithm", "NotImplemented", NOT_IMPLEMENTED, MD5),
        ("copy_object", "ChecksumAlgorithm", "InvalidArgument", "Unsupported header 'x-amz-checksum-algorithm'", MD5),
        ("put_object", "ContentMD5", "NotImplemented", "Content-MD5 is not supported", {"checksum": "off"}),
        # Of a condition and a checksum in one request the one that is named, else first the condition.
        ("put_object", "IfMatch ChecksumCRC32", "NotImplemented", NOT_IMPLEMENTED, {"conditions": {"IfNoneMatch"}}),
        ("put_object", "IfNoneMatch ChecksumCRC32", "InvalidArgument", "If-None-Match is unsupported", {"conditions": {"IfMatch"}}),
        ("put_object", "IfMatch ChecksumCRC32", "InvalidArgument", CRC_NAMED, MD5),
        # Older MinIO and Ceph; B2; Google Cloud Storage.
        ("delete_objects", "Delete", "MissingContentMD5", MD5_WANTED, {"batch": "md5"}),
        ("delete_objects", "Delete", "InvalidRequest", MD5_WANTED, {"batch": "md5"}),
        ("delete_objects", "Delete", "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm'", {"batch": "md5"}),
        ("delete_objects", "Delete", "InvalidArgument", "Invalid argument.", {"batch": "off"}),
        ("delete_objects", "Delete", "NotImplemented", "POST ?delete is not implemented for objects.", {"batch": "off"}),
        ("delete_objects", "Delete", "405", "", {"batch": "off"}),
        ("list_objects_v2", "Prefix", "NotImplemented", "", {"list_v2": False}),
        ("list_objects_v2", "Prefix", "InvalidArgument", "list-type", {"list_v2": False}),
    ],
)  # fmt: skip
def test_what_a_refusal_teaches(operation: str, asked: str, code: str, message: str, changed: dict[str, object]) -> None:
    lesson = learn(Dialect(), Refusal(operation, asked.split(), code, message))
    assert lesson is not None and lesson.dialect == dataclasses.replace(Dialect(), **changed)  # type: ignore[arg-type]
    # Told is what is lost by it.
    assert bool(lesson.notice) == ("checksum" in changed)
    if "batch" not in changed:
        assert learn(lesson.dialect, Refusal(operation, asked.split(), code, message)) is None


@pytest.mark.parametrize(
    ("operation", "asked", "code", "message"),
    [
        ("put_object", "ChecksumCRC32", "BadDigest", "The CRC32 you specified did not match"),
        ("put_object", "ChecksumCRC32", "InvalidRequest", "Value for x-amz-checksum-crc32 header is invalid."),
        ("put_object", "ServerSideEncryption ChecksumCRC32", "NotImplemented", NOT_IMPLEMENTED),
        ("put_object", "ServerSideEncryption", "InvalidArgument", "Unsupported header 'x-amz-server-side-encryption'"),
        ("complete_multipart_upload", "ChecksumCRC32", "InvalidRequest", "The checksum is not supported"),
        # rclone: the request for a copy was taken for the part.
        (
            "upload_part",
            "ChecksumCRC32",
            "NotImplemented",
            "part 2 has already been streamed to the backend and cannot be replaced",
        ),
        ("copy_object", "ChecksumAlgorithm", "NotImplemented", "CopyObject is not implemented"),
        ("put_object", "", "EntityTooLarge", ""),
    ],
)
def test_what_is_meant_as_it_is(operation: str, asked: str, code: str, message: str) -> None:
    assert learn(Dialect(), Refusal(operation, asked.split(), code, message)) is None


def test_what_an_answer_does_not_say() -> None:
    assert overlooked(Dialect(), ["ChecksumCRC32", "Key"], ["ChecksumCRC32"]) == []
    (lesson,) = overlooked(Dialect(), ["ChecksumCRC32"], [])
    assert lesson.dialect == WITHOUT_CRC32 and "1.7 s of a core" in lesson.notice
    assert overlooked(WITHOUT_CRC32, ["ContentMD5"], []) == []
    (lesson,) = overlooked(Dialect(), ["ServerSideEncryption"], [])
    assert lesson.dialect == Dialect() and "encrypts" in lesson.notice


def test_what_is_known_from_the_start() -> None:
    assert dialect_for(S3Access()).proven == CONDITIONS
    assert dialect_for(S3Access(endpoint_url="http://x")) == Dialect()
    assert dialect_for(S3Access(endpoint_url="http://x", conditional_writes=True)).proven == CONDITIONS
    assert not dialect_for(S3Access(conditional_writes=False)).conditions
    assert dialect_for(S3Access(endpoint_url="http://x", checksums="md5")) == WITHOUT_CRC32
    known = heeded(heeded(Dialect(), "IfMatch", refused=True).dialect, "IfNoneMatch", refused=True).dialect
    assert known.proven == CONDITIONS
    half = heeded(known, "IfMatch", refused=False).dialect
    assert half.conditions == half.proven == {"IfNoneMatch"}


BIG = Body.of(os.urandom(100_000))


async def write_all(store: S3Store) -> None:
    """What an upload does: an object, and one in parts."""
    await store.put("k", Body.of(b"content"))
    upload_id = await store.begin_multipart("m")
    part = await store.put_part("m", upload_id, 1, 0, BIG)
    await store.complete_multipart("m", upload_id, [part])
    await store.put("k2", BIG)


@pytest.mark.parametrize("params", [{}, {"user_agent_extra": "not-known-to-the-direct-path"}], ids=["direct", "botocore"])
@pytest.mark.parametrize(
    "refusal",
    [
        error_answer(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32' received for this API call."),
        error_answer(501, "NotImplemented", NOT_IMPLEMENTED),
    ],
    ids=["b2", "s3proxy"],
)
async def test_a_server_that_refuses_crc32_is_sent_md5(refusal: Answer, params: dict[str, str]) -> None:
    bucket = Bucket(refusing("x-amz-checksum", refusal))
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url, client_params=params) as store:
            await write_all(store)
            (notice,) = told(store)
            # What changes on its way is seen by the server still.
            with pytest.raises(StoreRejected, match="changed in memory"):
                bucket._refuse = lambda request: error_answer(400, "BadDigest")
                await store.put("k", Body((b"content",), 7, 12345))
    assert notice.startswith("s3://bucket/root: The store refuses CRC-32 checksums: what is sent carries its MD5")
    sent = [request for request in server.requests if request.body and request.method == "PUT"]
    # One request in vain, and everything once.
    assert [len(request.body) for request in sent[:4]] == [7, 7, 100_000, 100_000]
    assert all(request.headers["content-md5"] == md5_of(request.body) for request in sent[1:])
    assert not any("x-amz-checksum-crc32" in request.headers for request in sent[1:])


async def test_a_server_that_takes_no_notice_of_crc32_is_sent_md5_from_then_on() -> None:
    with ScriptedServer(Bucket(echoes=False)) as server:
        async with store_at(server.endpoint_url) as store:
            await write_all(store)
            assert [text.split(":")[2] for text in told(store)] == [" The store does not say that it has checked a CRC-32"]
    sent = [request.headers for request in server.requests if request.body and request.method == "PUT"]
    assert ["content-md5" in headers for headers in sent] == [False, True, True]


async def test_a_server_that_refuses_every_checksum_gets_none_and_that_is_told() -> None:
    def refuse(request: Request) -> Answer | None:
        for name in request.headers:
            if "checksum" in name or name == "content-md5":
                return error_answer(501, "NotImplemented", f"Header '{name}' not implemented")
        return None

    with ScriptedServer(Bucket(refuse)) as server:
        async with store_at(server.endpoint_url) as store:
            await write_all(store)
            assert ["MD5 instead" in text for text in told(store)] == [True, False]
            assert "noticed only when it is loaded" in told(store)[1]


async def test_without_a_sum_of_the_whole_each_part_has_its_own() -> None:
    with ScriptedServer(
        Bucket(refusing("checksum-type", error_answer(501, "NotImplemented", "Header 'x-amz-checksum-type'")))
    ) as server:
        async with store_at(server.endpoint_url) as store:
            assert await store.begin_multipart("m") == "each:id"
            await store.complete_multipart("m", "each:id", [Part(1, '"e"', 7, 5)])
            assert told(store) == []
    assert b"<ChecksumCRC32>AAAABQ==" in server.requests[-1].body and "x-amz-checksum-type" not in server.requests[-1].headers


async def test_a_server_that_accepts_conditions_and_takes_no_notice_of_them_is_found_out() -> None:
    with ScriptedServer(Bucket(heeds=False)) as server:
        async with store_at(server.endpoint_url) as store:
            first = await store.put("k", Body.of(b"first"), if_absent=True)
            assert not store.traits.conditional_writes
            for condition in ({"if_absent": True}, {"if_match": '"another"'}):
                with pytest.raises(StorePreconditionFailed):
                    await store.put("k", Body.of(b"other"), **condition)  # type: ignore[arg-type]
            assert await store.get("k") == b"first"
            await store.put("k", Body.of(b"second"), if_match=first.etag)
            assert await store.get("k") == b"second"


async def test_a_server_that_knows_one_condition_keeps_it() -> None:
    """AWS itself was such a server once."""
    bucket = Bucket(refusing("if-match", error_answer(501, "NotImplemented", NOT_IMPLEMENTED)))
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url) as store:
            first = await store.put("k", Body.of(b"first"), if_absent=True)
            second = await store.put("k", Body.of(b"second"), if_match=first.etag)
            assert not store.traits.conditional_writes
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"third"), if_match=first.etag)
            await store.put("k", Body.of(b"third"), if_match=second.etag)
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"fourth"), if_absent=True)
    assert server.requests[-1].headers["if-none-match"] == "*" and bucket.objects == {"root/k": b"third"}


async def test_even_the_first_condition_holds_where_the_server_takes_no_notice() -> None:
    bucket = Bucket(heeds=False)
    bucket.objects["root/k"] = b"held"
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"other"), if_absent=True)
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"other"), if_match='"another"')
    assert bucket.objects["root/k"] == b"held"


async def test_a_server_that_heeds_conditions_is_tried_once_for_each_kind() -> None:
    with ScriptedServer(Bucket()) as server:
        async with store_at(server.endpoint_url) as store:
            info = await store.put("k", Body.of(b"0"), if_absent=True)
            for number in range(1, 4):
                info = await store.put("k", Body.of(b"%d" % number), if_match=info.etag)
            await store.put("k2", Body.of(b"x"), if_absent=True)
            assert store.traits.conditional_writes and told(store) == []
            assert await store.get("k") == b"3"
    methods = [(request.method, request.path) for request in server.requests if request.path == "/bucket/root/k"]
    # A look, the write, the trial; likewise with the other condition; then nothing but writes.
    assert [method for method, _ in methods] == ["HEAD", "PUT", "PUT", "HEAD", "PUT", "PUT", "PUT", "PUT", "GET"]
    with ScriptedServer(Bucket()) as server:
        async with store_at(server.endpoint_url, conditional_writes=True) as store:
            await store.put("k", Body.of(b"0"), if_absent=True)
    assert [request.method for request in server.requests] == ["PUT"]


@pytest.mark.parametrize("answer", [error_answer(503, "SlowDown"), error_answer(404, "NoSuchKey")])
async def test_a_trial_that_fails_leaves_it_open_and_the_write_is_done(answer: Answer) -> None:
    puts: list[bytes] = []

    def refuse(request: Request) -> Answer | None:
        if request.method == "PUT":
            puts.append(request.body)
            return answer if len(puts) == 2 else None
        return None

    with ScriptedServer(Bucket(refuse)) as server:
        async with store_at(server.endpoint_url) as store:
            await store.put("k", Body.of(b"1"), if_absent=True)
            await store.put("k2", Body.of(b"2"), if_absent=True)
    # The second one is tried again.
    assert puts == [b"1", b"1", b"2", b"2"]


def no_batch(code: str, status: int, message: str) -> Callable[[Request], Answer | None]:
    return lambda request: error_answer(status, code, message) if request.method == "POST" else None


@pytest.mark.parametrize(
    "refuse",
    [no_batch("InvalidArgument", 400, "Invalid argument."), no_batch("NotImplemented", 501, "POST ?delete")],
    ids=["gcs", "501"],
)
async def test_without_batches_each_key_is_deleted_by_itself(refuse: Callable[[Request], Answer | None]) -> None:
    bucket = Bucket(refuse)
    bucket.objects = {f"root/{number}": b"x" for number in range(20)}
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url) as store:
            await store.delete([str(number) for number in range(10)])
            await store.delete([*(str(number) for number in range(10, 19)), "never there"])
            assert list(bucket.objects) == ["root/19"]
            bucket._refuse = lambda request: error_answer(503, "SlowDown")
            with pytest.raises(StoreBusy):
                await store.delete(["19"])
    assert [request.method for request in server.requests].count("POST") == 1


async def test_a_batch_carries_its_md5_where_that_is_wanted() -> None:
    def refuse(request: Request) -> Answer | None:
        if request.headers.get("content-md5") == md5_of(request.body):
            return None
        return error_answer(400, "MissingContentMD5", "Missing required header for this request: Content-Md5.")

    bucket = Bucket(refuse)
    bucket.objects = {"root/a": b"x", "root/b": b"x"}
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url) as store:
            await store.delete(["a"])
            await store.delete(["b"])
    assert bucket.objects == {} and len(server.requests) == 3
    assert not [name for name in server.requests[-1].headers if "checksum" in name]


@pytest.mark.parametrize("refuses", [True, False], ids=["refused", "overlooked"])
async def test_where_only_the_first_version_of_lists_is_known(refuses: bool) -> None:
    bucket = Bucket(lambda request: error_answer(400, "InvalidArgument") if refuses and "list-type" in request.path else None)
    bucket.objects = {f"root/{name}": b"x" for name in "abcde"}
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url) as store:
            for _ in range(2):
                assert [info.key for info in await store.list("")] == list("abcde")
                assert {info.etag for info in await store.list("")} == {'"e"'}
    assert sum("list-type" in request.path for request in server.requests) == (1 if refuses else 4)


async def test_encryption_is_asked_for_and_that_nobody_says_it_is_told() -> None:
    asked = {"server_side_encryption": "aws:kms", "sse_kms_key_id": "key-1", "bucket_key": True}
    with ScriptedServer(Bucket()) as server:
        async with store_at(server.endpoint_url, **asked) as store:
            await store.put("k", Body.of(b"x"))
            await store.put("k2", Body.of(b"x"))
            (notice,) = told(store)
    assert "does not say that it encrypts" in notice
    assert server.requests[0].headers["x-amz-server-side-encryption-bucket-key-enabled"] == "true"

    refusal = error_answer(501, "NotImplemented", NOT_IMPLEMENTED)
    with ScriptedServer(Bucket(refusing("encryption", refusal))) as server:
        async with store_at(server.endpoint_url, **asked) as store:
            # Never without it.
            with pytest.raises(StoreRejected):
                await store.put("k", Body.of(b"x"))
            assert told(store) == []


async def test_the_requester_pays_with_every_request() -> None:
    bucket = Bucket()
    with ScriptedServer(bucket) as server:
        async with store_at(server.endpoint_url, requester_pays=True) as store:
            await write_all(store)
            await store.get("k")
            await store.head("k")
            await store.list("")
            await store.delete(["k"])
    # The list takes two.
    assert len(server.requests) == 10
    assert {request.headers.get("x-amz-request-payer") for request in server.requests} == {"requester"}


async def test_a_wrong_clock_is_named() -> None:
    with ScriptedServer([error_answer(403, "RequestTimeTooSkewed")]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreAccessDenied, match="Set the clock of this machine"):
                await store.put("k", Body.of(b"x"))


async def test_an_object_that_is_not_there_is_no_lesson() -> None:
    with ScriptedServer(Bucket()) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreObjectMissing):
                await store.get("none")
            with pytest.raises(StorePreconditionFailed):
                await store.put("none", Body.of(b"x"), if_match='"e"')
