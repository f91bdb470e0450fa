"""What each answer of a server, and each failure on the way to it, means."""

from __future__ import annotations

import ssl
import threading
import zlib
from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError, HTTPClientError, NoCredentialsError

from ckpt_async.stores.contract import Body, CopySource
from ckpt_async.stores.limiting import Limiting
from ckpt_async.stores.retrying import Retrying
from ckpt_async.stores.s3.access import S3Access, S3Credentials
from ckpt_async.stores.s3.credentials import FollowedCredentials
from ckpt_async.stores.s3.errors import translate, translate_code
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.testing.ports import free_ports
from ckpt_async.words.errors import (
    StoreAccessDenied,
    StoreBusy,
    StoreError,
    StoreMissing,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)
from tests.stores.scripted_server import DEAF, RESET, SILENCE, Answer, Request, ScriptedServer, error_answer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]
SECRET = "the-secret-key-of-the-test"
KEY = "the-access-key-of-the-test"


def store_at(endpoint_url: str, **more: object) -> S3Store:
    settings: dict[str, object] = {"credentials": lambda: S3Credentials(KEY, SECRET), **more}
    access = S3Access(endpoint_url=endpoint_url, region="us-east-1", addressing_style="path", **settings)  # type: ignore[arg-type]
    return S3Store("bucket", "root", access)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchBucket", 404, StoreMissing),
        ("AccessDenied", 403, StoreAccessDenied),
        ("InvalidAccessKeyId", 403, StoreAccessDenied),
        ("SignatureDoesNotMatch", 403, StoreAccessDenied),
        ("ExpiredToken", 400, StoreAccessDenied),
        ("InvalidToken", 400, StoreAccessDenied),
        ("SomethingNew", 403, StoreAccessDenied),
        ("SomethingNew", 401, StoreAccessDenied),
        ("SlowDown", 503, StoreBusy),
        ("SlowDown", 0, StoreBusy),
        ("InternalError", 500, StoreUnavailable),
        # Inside an answer with the status 200.
        ("InternalError", 200, StoreUnavailable),
        ("RequestTimeout", 400, StoreUnavailable),
        ("TooManyRequests", 429, StoreBusy),
        ("SomethingNew", 429, StoreBusy),
        ("SomethingNew", 502, StoreUnavailable),
        ("NotImplemented", 501, StoreRejected),
        ("NoSuchKey", 404, StoreObjectMissing),
        ("NoSuchUpload", 404, StoreObjectMissing),
        ("404", 404, StoreObjectMissing),
        ("PreconditionFailed", 412, StorePreconditionFailed),
        ("ConditionalRequestConflict", 409, StorePreconditionFailed),
        ("OperationAborted", 409, StoreUnavailable),
        ("EntityTooLarge", 400, StoreRejected),
        ("InvalidPart", 400, StoreRejected),
        ("SomethingNew", 400, StoreRejected),
    ],
)
def test_codes(code: str, status: int, kind: type[StoreError]) -> None:
    error = translate_code(code, status, "message", "store an object", "s3://b/k")
    assert type(error) is kind
    assert str(error).startswith(f"could not store an object (s3://b/k): {code}: message")


def test_a_refused_certificate_is_permanent() -> None:
    inner = ssl.SSLCertVerificationError("self-signed certificate")
    outer = ConnectionError("cannot connect")
    outer.__cause__ = inner
    assert type(translate(outer, "store an object", "k")) is StoreRejected
    assert type(translate(ConnectionError("cannot connect"), "store an object", "k")) is StoreUnavailable


def test_a_text_shows_neither_secrets_nor_the_password_of_a_url() -> None:
    error = translate(OSError(f"http://me:pass@proxy:1 refused {SECRET}"), "store an object", "k", (SECRET,))
    assert str(error) == "could not store an object (k): OSError: http://***@proxy:1 refused ***"


async def put(store: S3Store) -> object:
    return await store.put("k", Body.of(b"content" * 1000))


async def get(store: S3Store) -> object:
    return await store.get("k")


@pytest.mark.parametrize("call", [put, get])
@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ([error_answer(403, "AccessDenied")], StoreAccessDenied, "AccessDenied"),
        ([error_answer(503, "SlowDown")], StoreBusy, "SlowDown"),
        ([Answer(503, b"<html>no XML, from a proxy")], StoreBusy, "503"),
        ([Answer(500)], StoreUnavailable, "500"),
        ([error_answer(404, "NoSuchBucket")], StoreMissing, "NoSuchBucket"),
        ([error_answer(400, "InvalidRequest", f"your keys are {KEY} and {SECRET}")], StoreRejected, "InvalidRequest"),
        ([RESET], StoreUnavailable, None),
        ([Answer(200, b"", {"Content-Type": "application/xml"}, promised=100)], StoreUnavailable, None),
    ],
)
@pytest.mark.parametrize("params", [{}, {"user_agent_extra": "not-known-to-the-direct-path"}], ids=["direct", "botocore"])
async def test_answers(
    call: object, script: Sequence[Answer | str], kind: type[StoreError], text: str | None, params: dict[str, object]
) -> None:
    with ScriptedServer(script) as server:
        async with store_at(server.endpoint_url, client_params=params) as store:
            with pytest.raises(StoreError, match=text) as caught:
                await call(store)  # type: ignore[operator]
        assert type(caught.value) is kind
        assert KEY not in str(caught.value)
        assert SECRET not in str(caught.value)
        # Repeating is left to the wrapper (aiohttp asks once more, by itself, where a GET was cut off).
        assert len(server.requests) == 1 or (call is get and script == [RESET])


async def test_a_bucket_of_another_region_gets_the_whole_body_again() -> None:
    moved = error_answer(301, "PermanentRedirect")
    elsewhere = Answer(301, moved.body, {**moved.headers, "x-amz-bucket-region": "eu-west-1"})

    def script(request: Request) -> Answer:
        there = "/eu-west-1/s3/" in request.headers["authorization"]
        return Answer(200, b"", {"ETag": '"e"'}) if there else elsewhere

    with ScriptedServer(script) as server:
        async with store_at(server.endpoint_url) as store:
            for content in (b"content", b"more"):
                await store.put("k", Body((content[:2], content[2:]), len(content), 0))
    puts = [(request.body, "/eu-west-1/s3/" in request.headers["authorization"]) for request in server.requests if request.body]
    # The second one knows the way.
    assert puts == [(b"content", False), (b"content", True), (b"more", True)]


def test_a_failure_of_the_client_itself_is_permanent() -> None:
    strange = HTTPClientError(error=RecursionError("too deep"))
    assert type(translate(strange, "store an object", "k")) is StoreRejected
    reset = HTTPClientError(error=ConnectionResetError("reset"))
    assert type(translate(reset, "store an object", "k")) is StoreUnavailable


async def test_a_body_that_ends_too_early() -> None:
    with ScriptedServer([Answer(200, b"x" * 1000, {"ETag": '"e"'}, promised=5000)]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreUnavailable):
                await store.get("k")


async def test_nobody_listens() -> None:
    async with store_at(f"http://127.0.0.1:{free_ports(1)[0]}") as store:
        with pytest.raises(StoreUnavailable):
            await store.head("k")


@pytest.mark.parametrize("script", [SILENCE, DEAF])
async def test_nothing_moves(script: str) -> None:
    """A server that takes the request and is silent, and one that does not even take the bytes."""
    with ScriptedServer([script]) as server:
        async with store_at(server.endpoint_url, connect_timeout_s=0.5, read_timeout_s=0.5) as store:
            big = b"x" * (16 << 20)
            with pytest.raises(StoreUnavailable):
                await store.put("k", Body((big,), len(big), 0))


async def test_an_error_inside_an_answer_of_success() -> None:
    failed = Answer(200, error_answer(200, "InternalError").body, {"Content-Type": "application/xml"})
    with ScriptedServer([failed]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreUnavailable, match="InternalError"):
                await store.complete_multipart("k", "none:id", [])


async def test_damage_on_the_way_is_transient_and_damage_before_it_is_not() -> None:
    with ScriptedServer([error_answer(400, "BadDigest")]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreUnavailable, match="on the way"):
                await store.put("k", Body.of(b"content"))
            with pytest.raises(StoreRejected, match="changed in memory"):
                await store.put("k", Body((b"content",), 7, 12345))


async def test_a_missing_object_does_not_match() -> None:
    with ScriptedServer([error_answer(404, "NoSuchKey")]) as server:
        async with store_at(server.endpoint_url, conditional_writes=True) as store:
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"x"), if_match='"e"')


class WithoutConditions:
    """A bucket with one object, on a server that knows no conditions."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.refused = 0

    def __call__(self, request: Request) -> Answer:
        if "if-match" in request.headers or "if-none-match" in request.headers:
            self.refused += 1
            return error_answer(501, "NotImplemented")
        if request.method == "PUT":
            self.content = request.body
        elif request.path == "/bucket":
            return Answer()
        elif self.content is None:
            return Answer(404)
        return Answer(200, b"", {"ETag": f'"{zlib.crc32(self.content)}"'}, promised=None if request.method == "PUT" else 1)


async def test_a_server_without_conditional_writes_is_asked_once_and_then_looked_at() -> None:
    server_side = WithoutConditions()
    with ScriptedServer(server_side) as server:
        async with store_at(server.endpoint_url) as store:
            assert store.traits.conditional_writes
            first = await store.put("k", Body.of(b"first"), if_absent=True)
            assert not store.traits.conditional_writes
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"other"), if_absent=True)
            with pytest.raises(StorePreconditionFailed):
                await store.put("k", Body.of(b"other"), if_match='"another"')
            assert server_side.content == b"first"
            await store.put("k", Body.of(b"second"), if_match=first.etag)
    # Once for each kind of condition.
    assert server_side.content == b"second" and server_side.refused == 2


async def test_a_server_that_does_not_know_something_else_refuses_for_good() -> None:
    with ScriptedServer([error_answer(501, "NotImplemented")]) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreRejected, match="501"):
                await store.put("k", Body.of(b"x"), if_match='"e"')


async def test_the_keys_of_a_batch_fail_one_by_one() -> None:
    def script(request: Request) -> Answer:
        denied = "<Error><Key>root/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        busy = "<Error><Key>root/a</Key><Code>InternalError</Code><Message>later</Message></Error>"
        gone = "<Error><Key>root/c</Key><Code>NoSuchKey</Code><Message>gone</Message></Error>"
        errors = (busy + denied + gone) if b"root/b" in request.body else gone
        return Answer(200, f"<DeleteResult>{errors}</DeleteResult>".encode(), {"Content-Type": "application/xml"})

    with ScriptedServer(script) as server:
        async with store_at(server.endpoint_url) as store:
            with pytest.raises(StoreAccessDenied, match=r"root/b.*AccessDenied: no \(and 1 others\)"):
                await store.delete(["a", "b", "c"])
            await store.delete(["c"])


async def test_headers_of_encryption_and_checksum() -> None:
    begun = b"<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"

    def script(request: Request) -> Answer:
        checked = {"x-amz-checksum-crc32": "AAAA/w=="}
        return Answer(
            200, begun if request.method == "POST" else b"", {"ETag": '"e"', "Content-Type": "application/xml", **checked}
        )

    with ScriptedServer(script) as server:
        async with store_at(server.endpoint_url, server_side_encryption="aws:kms", sse_kms_key_id="key-1") as store:
            await store.put("k", Body((b"con", b"tent"), 7, 0x0000_00FF))
            assert await store.begin_multipart("k") == "none:id"
            await store.put_part("k", "none:id", 1, 0, Body.of(b"part"))
        async with store_at(server.endpoint_url, checksums="off") as store:
            await store.put("k", Body.of(b"content"))
            await store.begin_multipart("k")
    whole, begin, part, bare, bare_begin = server.requests
    assert whole.body == b"content"
    assert whole.headers["x-amz-checksum-crc32"] == "AAAA/w=="
    assert whole.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    for request in (whole, begin):
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert (begin.headers["x-amz-checksum-algorithm"], begin.headers["x-amz-checksum-type"]) == ("CRC32", "FULL_OBJECT")
    assert "x-amz-server-side-encryption" not in part.headers
    for request in (bare, bare_begin):
        assert not [name for name in request.headers if "checksum" in name or "encryption" in name]


class Rotating:
    """Credentials that change at each call, as far as there are others."""

    def __init__(self, *keys: str) -> None:
        self._keys = list(keys)
        self.calls = 0

    def __call__(self) -> S3Credentials:
        key = self._keys[min(self.calls, len(self._keys) - 1)]
        self.calls += 1
        return S3Credentials(key, SECRET, "token-of-" + key)


def only(key: str) -> object:
    def script(request: Request) -> Answer:
        if f"Credential={key}/" in request.headers["authorization"]:
            assert request.headers["x-amz-security-token"] == f"token-of-{key}"
            return Answer(200, b"", {"ETag": '"e"'})
        return error_answer(400, "ExpiredToken", "the token has expired")

    return script


async def test_expired_credentials_are_renewed_once() -> None:
    source = Rotating("old", "new")
    with ScriptedServer(only("new")) as server:  # type: ignore[arg-type]
        async with store_at(server.endpoint_url, credentials=source) as store:
            await store.put("k", Body.of(b"x"))
            await store.put("k", Body.of(b"x"))
    assert source.calls == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize("keys", [("old",), ("old", "older", "oldest")])
async def test_expired_credentials_without_better_ones(keys: tuple[str, ...]) -> None:
    source = Rotating(*keys)
    with ScriptedServer(only("new")) as server:  # type: ignore[arg-type]
        async with store_at(server.endpoint_url, credentials=source) as store:
            with pytest.raises(StoreAccessDenied, match="ExpiredToken"):
                await store.put("k", Body.of(b"x"))
    assert source.calls == 2


async def test_a_source_that_believes_in_what_was_refused_is_told_to_forget_it() -> None:
    class Holding:
        key = "old"

        def forget(self) -> None:
            self.key = "new"

        def __call__(self) -> S3Credentials:
            return S3Credentials(self.key, SECRET, f"token-of-{self.key}")

    with ScriptedServer(only("new")) as server:  # type: ignore[arg-type]
        async with store_at(server.endpoint_url, credentials=Holding()) as store:
            await store.put("k", Body.of(b"x"))
    assert len(server.requests) == 2


async def test_there_are_no_credentials() -> None:
    with ScriptedServer([Answer(200)]) as server:
        async with store_at(server.endpoint_url, credentials=lambda: None) as store:
            with pytest.raises(StoreAccessDenied, match="credentials"):
                await store.head("k")
        assert server.requests == []


async def test_the_source_of_credentials_fails() -> None:
    def source() -> S3Credentials:
        raise RuntimeError(f"no answer from the vault for {SECRET}")

    async with store_at("http://127.0.0.1:9", credentials=source) as store:
        with pytest.raises(StoreUnavailable, match="RuntimeError") as caught:
            await store.head("k")
        assert SECRET not in str(caught.value)


async def test_a_silent_source_holds_a_request_no_longer_than_a_silent_store_and_none_where_something_is_held() -> None:
    let_go = threading.Event()
    told: list[StoreError | None] = []

    def source() -> S3Credentials:
        let_go.wait(60)
        return S3Credentials(KEY, SECRET)

    access = {"credentials": source, "connect_timeout_s": 0.1, "read_timeout_s": 0.1}
    try:
        store = Retrying(
            store_at("http://127.0.0.1:9", **access), on_trouble=lambda _, error: told.append(error), give_up_after_s=1
        )
        async with store:
            with pytest.raises(StoreUnavailable, match="could not get the credentials of the store: no answer"):
                await store.head("k")
        assert told and isinstance(told[0], StoreUnavailable)
    finally:
        let_go.set()
    now_s = [1000.0]
    credentials = FollowedCredentials(source, lambda: now_s[0])
    first = await credentials.get_frozen_credentials()
    let_go.clear()
    now_s[0] += 1000
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(credentials.get_frozen_credentials)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(30):
                assert await credentials.get_frozen_credentials() == first
            group.cancel_scope.cancel()
    finally:
        let_go.set()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CredentialRetrievalError(provider="role", error_msg="timed out"), StoreUnavailable),
        (EndpointConnectionError(endpoint_url="http://sts"), StoreUnavailable),
        (NoCredentialsError(), StoreAccessDenied),
        (StoreAccessDenied("log in"), StoreAccessDenied),
    ],
)
async def test_only_a_source_without_credentials_refuses_for_good(error: Exception, kind: type[StoreError]) -> None:
    def source() -> S3Credentials:
        raise error

    async with store_at("http://127.0.0.1:9", credentials=source) as store:
        with pytest.raises(kind):
            await store.head("k")
    if not isinstance(error, StoreError):
        assert type(translate(error, "store an object", "k")) is kind


async def test_what_is_held_serves_until_it_expires_where_its_source_is_away() -> None:
    now_s = [1000.0]
    away = [False]

    def source() -> S3Credentials:
        if away[0]:
            raise TimeoutError("no answer")
        return S3Credentials(KEY, SECRET, expires_at_s=now_s[0] + 300)

    credentials = FollowedCredentials(source, lambda: now_s[0])
    first = await credentials.get_frozen_credentials()
    away[0] = True
    now_s[0] += 299
    assert await credentials.get_frozen_credentials() == first
    now_s[0] += 1
    with pytest.raises(StoreUnavailable, match="TimeoutError"):
        await credentials.get_frozen_credentials()
    away[0] = False
    assert (await credentials.get_frozen_credentials()).access_key == KEY


async def test_the_access_is_made_by_the_first_request_in_a_thread_and_again_where_that_fails() -> None:
    made: list[int] = []

    def make() -> S3Access:
        made.append(threading.get_ident())
        if len(made) == 1:
            raise StoreUnavailable("make a store's access", cause="as the test says")
        return S3Access(endpoint_url=server.endpoint_url, region="us-east-1", addressing_style="path", anonymous=True)

    with ScriptedServer([Answer(200, b"", {"ETag": '"e"'})]) as server:
        async with S3Store("bucket", "root", make) as store:
            assert not made
            with pytest.raises(StoreUnavailable):
                await store.put("k", Body.of(b"x"))
            await store.put("k", Body.of(b"x"))
            await store.put("k", Body.of(b"x"))
    assert len(made) == 2 and threading.get_ident() not in made


async def test_without_a_signature() -> None:
    with ScriptedServer([Answer(200, b"", {"ETag": '"e"'})]) as server:
        async with store_at(server.endpoint_url, anonymous=True, credentials=None) as store:
            await store.put("k", Body.of(b"x"))
    assert "authorization" not in server.requests[0].headers


async def test_the_libraries_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with ScriptedServer([Answer(200, b"", {"ETag": '"e"'})]) as server:
        async with store_at(server.endpoint_url, credentials=None) as store:
            await store.put("k", Body.of(b"x"))
    assert "Credential=from-the-environment/" in server.requests[0].headers["authorization"]


CALLS: dict[str, Callable[[S3Store], Awaitable[object]]] = {
    "put": put,
    "get": get,
    "head": lambda store: store.head("k"),
    "list": lambda store: store.list(""),
    "delete": lambda store: store.delete(["k"]),
    "copy": lambda store: store.copy("k", CopySource("other", '"e"', 0, 1, 0)),
    "begin": lambda store: store.begin_multipart("k"),
    "part": lambda store: store.put_part("k", "none:id", 1, 0, Body.of(b"x")),
    "copy part": lambda store: store.copy_part("k", "none:id", 1, 0, CopySource("other", '"e"', 0, 1, 0)),
    "complete": lambda store: store.complete_multipart("k", "none:id", []),
    "abort": lambda store: store.abort_multipart("k", "none:id"),
}


@pytest.mark.parametrize("status", [503, 429])
async def test_any_request_may_meet_a_store_that_wants_fewer(status: int) -> None:
    with ScriptedServer([error_answer(status, "SlowDown")]) as server:
        bare = store_at(server.endpoint_url)
        async with Limiting(bare, 64) as store:
            for call in CALLS.values():
                with pytest.raises(StoreBusy):
                    await call(store)  # type: ignore[arg-type]
            # Each of them has halved what is let through at once.
            assert store._turns.limit == 1 and len(server.requests) == len(CALLS)


async def test_a_hiccup_is_repeated_by_the_wrapper() -> None:
    answers = [error_answer(503, "SlowDown"), RESET, Answer(500), Answer(200, b"", {"ETag": '"e"'})]

    async def no_wait(delay_s: float) -> None:
        return None

    with ScriptedServer(answers) as server:
        bare = store_at(server.endpoint_url)
        async with Retrying(bare, on_trouble=lambda failures, error: None, sleep=no_wait) as store:
            info = await store.put("k", Body.of(b"content"))
    assert info.etag == '"e"'
    assert [request.body for request in server.requests] == [b"content"] * 4


async def test_further_settings_of_the_client() -> None:
    with ScriptedServer([Answer(200, b"", {"ETag": '"e"'})]) as server:
        params = {"user_agent_extra": "by-the-test", "s3": {"use_dualstack_endpoint": False}}
        async with store_at(server.endpoint_url, client_params=params) as store:
            await store.put("k", Body.of(b"x"))
    assert "by-the-test" in server.requests[0].headers["user-agent"]
    assert server.requests[0].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
