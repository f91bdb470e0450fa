"""Where a request goes: the styles of addresses and the forms of endpoints, by both client libraries and by the direct path."""

from __future__ import annotations

import socket

import pytest

from ckpt_async.stores.contract import Body
from ckpt_async.stores.s3.access import S3Access, S3Credentials
from ckpt_async.stores.s3.store import S3Store
from tests.stores.scripted_bucket import Bucket
from tests.stores.scripted_server import ScriptedServer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]


@pytest.fixture
def local_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name below ``s3.test`` is this machine."""
    real = socket.getaddrinfo

    def resolve(host: object, *args: object, **more: object) -> object:
        name = host.decode() if isinstance(host, bytes) else str(host)
        return real("127.0.0.1" if name.endswith("s3.test") else host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("params", [{}, {"user_agent_extra": "not-known-to-the-direct-path"}], ids=["direct", "botocore"])
@pytest.mark.parametrize(
    ("endpoint", "style", "bucket", "host", "path"),
    [
        ("http://s3.test:{port}", "virtual", "bucket", "bucket.s3.test:{port}", "/"),
        # At an endpoint that is named: path style.
        ("http://s3.test:{port}", "auto", "bucket", "s3.test:{port}", "/bucket/"),
        ("http://s3.test:{port}/", "path", "bucket", "s3.test:{port}", "/bucket/"),
        ("http://s3.test:{port}", "virtual", "my.dotted.bucket", "my.dotted.bucket.s3.test:{port}", "/"),
        ("http://s3.test:{port}", "auto", "Old_Bucket", "s3.test:{port}", "/Old_Bucket/"),
        ("http://127.0.0.1:{port}", "auto", "bucket", "127.0.0.1:{port}", "/bucket/"),
        ("http://s3.test:{port}/storage/s3", "path", "bucket", "s3.test:{port}", "/storage/s3/bucket/"),
        ("http://s3.test:{port}/storage/s3/", "virtual", "bucket", "bucket.s3.test:{port}", "/storage/s3/"),
    ],
)
@pytest.mark.usefixtures("local_names")
async def test_styles(endpoint: str, style: str, bucket: str, host: str, path: str, params: dict[str, str]) -> None:
    with ScriptedServer(Bucket()) as server:
        access = S3Access(
            endpoint_url=endpoint.format(port=server.port),
            region="auto",
            addressing_style=style,
            credentials=lambda: S3Credentials("key", "secret"),
            client_params=params,
        )
        async with S3Store(bucket, "root", access) as store:
            await store.put("k", Body.of(b"x"))
            await store.head("k")
    put, head = server.requests
    for request in (put, head):
        assert (request.headers["host"], request.path) == (host.format(port=server.port), f"{path}root/k")
        assert "/auto/s3/aws4_request" in request.headers["authorization"]


async def test_an_address_of_ipv6() -> None:
    with ScriptedServer(Bucket(), host="::1") as server:
        access = S3Access(
            endpoint_url=f"http://[::1]:{server.port}", region="us-east-1", credentials=lambda: S3Credentials("key", "secret")
        )
        async with S3Store("bucket", "root", access) as store:
            await store.put("k", Body.of(b"x"))
            assert await store.get("k") == b"x"
            await store.head("k")
    assert {request.headers["host"] for request in server.requests} == {f"[::1]:{server.port}"}
