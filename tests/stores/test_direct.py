"""The direct path of S3: signatures, where it goes, and HTTP with its ugly answers."""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import anyio
import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest

from ckpt_async.stores.contract import Body
from ckpt_async.stores.http_client import ASK_FROM_BYTES, HttpClient, Sending
from ckpt_async.stores.s3.access import S3Access, S3Credentials
from ckpt_async.stores.s3.direct import Place, place_of
from ckpt_async.stores.s3.signing import Signer, encode_query
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.words.errors import StoreAccessDenied, StoreRejected, StoreUnavailable
from tests.stores.scripted_server import Answer, ScriptedServer

pytestmark = pytest.mark.anyio
NOW_S = 1_700_000_000.0
QUIET = Sending(lambda: None)


@pytest.mark.parametrize("token", [None, "the/token+=="])
def test_the_signature_is_that_of_botocore(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    keys = SimpleNamespace(access_key="AKID", secret_key="secret", token=token)
    query = encode_query({"uploadId": "a/b+c=~ä", "partNumber": "7"})
    ours = {"x-amz-checksum-crc32": "AAAA/w==", "x-amz-server-side-encryption": "aws:kms", "if-match": '"e"'}
    Signer("host:9000", "eu-west-1", lambda: NOW_S).sign("PUT", "/bucket/a%20b/%C3%A4~", query, ours, keys)

    now = datetime.datetime.fromtimestamp(NOW_S, datetime.timezone.utc)
    monkeypatch.setattr(auth, "get_current_datetime", lambda **_: now.replace(tzinfo=None))
    # botocore signs If-Match, too, which S3 does not ask for.
    headers = {name: value for name, value in ours.items() if name not in ("if-match", "authorization")}
    request = AWSRequest("PUT", f"http://host:9000/bucket/a%20b/%C3%A4~?{query}", headers=headers)
    request.context.update(payload_signing_enabled=False, client_config=SimpleNamespace(s3={"payload_signing_enabled": False}))
    auth.S3SigV4Auth(keys, "s3", "eu-west-1").add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize(
    ("url", "more", "place"),
    [
        ("http://127.0.0.1:9/b/ckpt-async", {}, Place("http", "127.0.0.1:9", 9, "/b/", "r")),
        ("https://b.s3.r.amazonaws.com/ckpt-async", {}, Place("https", "b.s3.r.amazonaws.com", 443, "/", "r")),
        ("https://b.s3express.amazonaws.com/ckpt-async", {"x-amz-s3session-token": "t"}, None),
        ("https://b.s3.amazonaws.com/ckpt-async", {"authorization": "AWS4-ECDSA-P256-SHA256 Credential=AKID/20260101/s3/x"}, None),
        ("https://b.s3.amazonaws.com/ckpt-async", {"authorization": "AWS AKID:signature"}, None),
        ("https://b.s3.amazonaws.com/ckpt-async?x-id=GetObject", {}, None),
    ],
)
def test_what_is_signed_in_another_way_goes_the_other_way(url: str, more: dict[str, str], place: Place | None) -> None:
    usual = "AWS4-HMAC-SHA256 Credential=AKID/20260101/r/s3/aws4_request, SignedHeaders=host, Signature=0"
    assert place_of(url, {"authorization": usual, **more}) == place


@contextmanager
def raw_server(*answers: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Each answer serves one connection, in order."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                opened, _ = listener.accept()
                try:
                    with opened if tls is None else tls.wrap_socket(opened, server_side=True) as line:
                        answer(line)
                except OSError:
                    continue  # the client went away

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(10)
            assert not thread.is_alive()


def head_of(line: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        text += line.recv(1)
    return text


def says(text: bytes) -> Callable[[socket.socket], None]:
    def act(line: socket.socket) -> None:
        head_of(line)
        line.sendall(text)

    return act


async def get(port: int, times: int = 1) -> list[tuple[int, bytes]]:
    client = HttpClient("127.0.0.1", port, None, 5)
    found = []
    try:
        with anyio.fail_after(20):
            for _ in range(times):
                answer = await client.exchange(["GET / HTTP/1.1", "Host: x"], (), 0, QUIET)
                found.append((answer.status, answer.body))
    finally:
        await client.close()
    return found


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\ncontent-length: 5\r\n\r\nabcde",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
    ],
    ids=["chunked", "after-a-100", "to-the-end"],
)
async def test_answers_of_every_form(text: bytes) -> None:
    with raw_server(says(text)) as port:
        assert await get(port) == [(200, b"abcde")]


@pytest.mark.parametrize("text", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 2"])
async def test_what_is_no_whole_answer_is_an_error_of_the_line(text: bytes) -> None:
    with raw_server(says(text)) as port:
        with pytest.raises(ConnectionError):
            await get(port)


async def test_a_connection_that_was_closed_while_idle_is_no_failure() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    closed = threading.Event()

    def one_and_close(line: socket.socket) -> None:
        says(whole + b"1")(line)
        line.close()
        closed.set()

    def reads_and_closes(line: socket.socket) -> None:
        says(whole + b"2")(line)
        head_of(line)  # The next request arrives, and gets no answer.

    with raw_server(one_and_close, reads_and_closes, says(whole + b"3")) as port:
        assert await get(port, 3) == [(200, b"1"), (200, b"2"), (200, b"3")]


async def test_a_body_that_the_server_does_not_want_is_not_sent() -> None:
    client_got = []

    def refuse(line: socket.socket) -> None:
        assert b"Expect: 100-continue" in head_of(line)
        line.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        client_got.append(line.recv(1))

    def refuse_in_the_middle(line: socket.socket) -> None:
        head_of(line)
        line.recv(1000)
        line.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass

    big = bytes(ASK_FROM_BYTES)
    with raw_server(refuse, refuse_in_the_middle) as port:
        client = HttpClient("127.0.0.1", port, None, 5)
        with anyio.fail_after(20):
            assert (await client.exchange(["PUT / HTTP/1.1"], (big,), len(big), QUIET)).status == 403
            assert (await client.exchange(["PUT / HTTP/1.1"], (big[1:],), len(big) - 1, QUIET)).status == 503
        await client.close()
    assert client_got == [b""]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return key, cert


async def test_over_tls(certificate: tuple[str, str]) -> None:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    content = bytes(range(256)) * 8192
    bodies = []

    def store_two(line: socket.socket) -> None:
        for _ in range(2):
            head_of(line)
            line.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = b""
            while len(body) < len(content):
                body += line.recv(65536)
            bodies.append(body)
            line.sendall(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n')

    def store_at(port: int, verify: bool | str) -> S3Store:
        access = S3Access(
            endpoint_url=f"https://127.0.0.1:{port}",
            region="us-east-1",
            verify=verify,
            credentials=lambda: S3Credentials("key", "secret"),
        )
        return S3Store("bucket", "root", access)

    with raw_server(store_two, store_two, says(b""), tls=context) as port:
        for verify in (cert, False):
            async with store_at(port, verify) as store:
                with anyio.fail_after(30):
                    await store.put("k", Body.of(content))
                    assert (await store.put("k", Body.of(content))).etag == '"e"'
        async with store_at(port, True) as store:
            with pytest.raises(StoreRejected, match=r"(?i)certificate"):
                await store.put("k", Body.of(b"x"))
    assert bodies == [content] * 4


async def test_an_answer_without_an_etag_is_not_the_stores() -> None:
    access = S3Access(region="us-east-1", addressing_style="path", credentials=lambda: S3Credentials("key", "secret"))
    with ScriptedServer([Answer(200, b"<html>log in first</html>"), Answer(401)]) as server:
        access = S3Access(**{**access.__dict__, "endpoint_url": server.endpoint_url})
        async with S3Store("bucket", "root", access) as store:
            with pytest.raises(StoreUnavailable, match="ETag"):
                await store.put("k", Body.of(b"x"))
            with pytest.raises(StoreAccessDenied):
                await store.put("k", Body.of(b"x"))


async def test_a_proxy_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([Answer(200, b"", {"ETag": '"e"'})]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint_url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        access = S3Access(endpoint_url="http://store.test", region="us-east-1", credentials=lambda: S3Credentials("key", "secret"))
        async with S3Store("bucket", "", access) as store:
            await store.put("k", Body.of(b"x"))
    assert proxy.requests[0].path.startswith("http://") and "store.test" in proxy.requests[0].path
