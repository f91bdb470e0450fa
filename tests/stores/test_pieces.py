"""The small parts: addresses, checksums that combine, the body of a request, faults."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import anyio
import pytest
from hypothesis import given, strategies as st

from ckpt_async.stores.azure.store import AzureStore
from ckpt_async.stores.contract import Body
from ckpt_async.stores.crc32 import combined_crc32, encode_crc32
from ckpt_async.stores.gcs.store import GcsStore
from ckpt_async.stores.http_client import Sending
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryStore
from ckpt_async.stores.opening import open_store
from ckpt_async.stores.s3.body import RequestBody
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.words.errors import StoreUnavailable, UnsupportedStore
from ckpt_async.words.settings import StoreAddress


@pytest.mark.anyio
async def test_opening_a_folder(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    for url in (str(tmp_path / "with space"), f"file://{tmp_path}/with%20space", f"file://localhost{tmp_path}/with%20space"):
        store = open_store(StoreAddress(url))
        assert isinstance(store, LocalStore)
        assert store.traits.url == url
        async with store:
            await store.put("k", Body.of(b"x"))
    assert (tmp_path / "with space/k").read_bytes() == b"x"


def test_opening_a_bucket() -> None:
    store = open_store(StoreAddress("s3://bucket/some/prefix/"))
    assert isinstance(store, S3Store)
    assert store.traits.url == "s3://bucket/some/prefix"
    assert open_store(StoreAddress("s3://bucket")).traits.url == "s3://bucket"


@pytest.mark.parametrize("url", ["gs://", "azure:///x", "http://host/x", "s3://", "s3:///x", "file://host/x", ""])
def test_what_is_not_supported(url: str) -> None:
    with pytest.raises(UnsupportedStore, match="Supported: s3://bucket/prefix, azure://container/prefix, gs://bucket/prefix"):
        open_store(StoreAddress(url))


def test_opening_a_container() -> None:
    for url, kind in (("azure://container/some/prefix/", AzureStore), ("gs://bucket/some/prefix/", GcsStore)):
        store = open_store(StoreAddress(url))
        assert isinstance(store, kind)
        assert store.traits.url == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "package", "extra"), [("azure://c/x", "azure.storage", "azure"), ("gs://b/x", "google.cloud", "gcs")]
)
def test_what_needs_a_package_that_is_missing_says_how_it_is_installed(url: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ckpt_async import StoreAddress, UnsupportedStore, check_address\n"
        f"try: check_address(StoreAddress({url!r}))\n"
        "except UnsupportedStore as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True).stdout
    assert f"is not installed. Install it: pip install 'ckpt-async[{extra}]', or " in told


def test_a_folder_is_opened_without_heavy_imports() -> None:
    code = (
        "import sys; from ckpt_async.stores.opening import open_store; from ckpt_async.words.settings import StoreAddress;"
        "open_store(StoreAddress('/'));"
        "print([name for name in ('aiobotocore', 'botocore', 'aiohttp', 'azure', 'google', 'requests') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout == b"[]\n"


def test_a_bucket_without_aiobotocore() -> None:
    code = (
        "import sys; sys.modules['aiobotocore'] = sys.modules['aiohttp'] = None;"
        "from ckpt_async.stores.opening import open_store; from ckpt_async.words.settings import StoreAddress;"
        "print(open_store(StoreAddress('s3://bucket')).traits.notices[0])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True).stdout
    assert told.startswith("S3 is reached through botocore in threads: aiobotocore can't be imported (")
    assert open_store(StoreAddress("s3://bucket")).traits.notices == ()


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_checksums_of_parts_combine(parts: list[bytes]) -> None:
    assert combined_crc32((zlib.crc32(part), len(part)) for part in parts) == zlib.crc32(b"".join(parts))


def test_checksums_of_big_parts_combine() -> None:
    parts = [bytes(9_000_001), b"x" * 5_000_000, b"y"]
    assert combined_crc32((zlib.crc32(part), len(part)) for part in parts) == zlib.crc32(b"".join(parts))
    assert encode_crc32(0x0102_0304) == "AQIDBA=="


class TestRequestBody:
    def body(self, moved: list[int] | None = None) -> RequestBody:
        chunks = (b"", b"abc", b"x" * 700_000, b"", b"end")
        content = b"".join(chunks)
        how = Sending(lambda: (moved if moved is not None else []).append(1))
        return RequestBody(Body(chunks, len(content), zlib.crc32(content)), how)

    @property
    def content(self) -> bytes:
        return b"abc" + b"x" * 700_000 + b"end"

    @pytest.mark.anyio
    async def test_pieces(self) -> None:
        moved: list[int] = []
        body = self.body(moved)
        for _ in range(2):
            pieces = [bytes(piece) async for piece in body]
            assert b"".join(pieces) == self.content
            assert max(len(piece) for piece in pieces) <= 256 * 1024
        assert len(moved) >= len(pieces)

    def test_as_a_file(self) -> None:
        body = self.body()
        assert len(body) == len(self.content)
        assert body.read() == self.content
        assert body.read() == b""
        assert body.seek(0) == 0
        assert body.read(2) == b"ab"
        assert body.read(3) == b"cxx"
        assert body.tell() == 5
        assert body.seek(-4, 2) == len(self.content) - 4
        assert body.read(100) == b"xend"
        assert body.seek(-2, 1) == len(self.content) - 2
        assert body.read() == b"nd"


@pytest.mark.anyio
async def test_faults() -> None:
    gate = anyio.Event()
    faults = [
        Fault("put", "bad/*"),
        Fault("get", calls={2}),
        Fault("delete", after=True, calls={1}),
        Fault("head", error=None, gate=gate),
    ]
    async with FaultyStore(MemoryStore(), faults) as store:
        with pytest.raises(StoreUnavailable):
            await store.put("bad/k", Body.of(b"x"))
        await store.put("k", Body.of(b"x"))
        assert await store.get("k") == b"x"
        with pytest.raises(StoreUnavailable):
            await store.get("k")
        async with anyio.create_task_group() as group:
            group.start_soon(store.head, "k")
            with anyio.fail_after(10):
                await faults[3].reached.wait()
            gate.set()
        with pytest.raises(StoreUnavailable):
            await store.delete(["k"])
        assert await store.list("") == []
        assert store.calls[:2] == [("put", "bad/k"), ("put", "k")]
