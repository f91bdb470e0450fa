"""A store of which nothing is known but that it keeps files under names."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
import pytest

from ckpt_async.stores.blobs.access import BlobsAccess
from ckpt_async.stores.blobs.store import BlobsStore
from ckpt_async.stores.contract import Body
from ckpt_async.testing.store_contract import MakeStore, StoreContract
from ckpt_async.words.errors import StoreObjectMissing, StoreRejected, StoreUnavailable


class Shelf:
    """Blobs in a folder, each a file with a name that says its key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.loads: list[str] = []
        self.fails = 0

    def _path(self, key: str) -> Path:
        return self._folder / key.replace("%", "%25").replace("/", "%2F")

    def save(self, key: str, content: BinaryIO) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("away, with https://me:secret@host and sig=secret")
        path = self._folder / f"tmp {secrets.token_hex(8)}"
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
        path.rename(self._path(key))

    @contextlib.contextmanager
    def load(self, key: str) -> Iterator[str | None]:
        self.loads.append(key)
        copy = self._folder / f"tmp {secrets.token_hex(8)}"
        try:
            shutil.copy(self._path(key), copy)
        except FileNotFoundError:
            yield None
            return
        try:
            yield str(copy)
        finally:
            copy.unlink()

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        prefix = f"{folder}/" if folder else ""
        found = set()
        for name in os.listdir(self._folder):
            key = name.replace("%2F", "/").replace("%25", "%")
            if key.startswith(prefix) and not key.startswith("tmp "):
                first, separator, _ = key.removeprefix(prefix).partition("/")
                found.add((prefix + first, not separator))
        return sorted(found)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Shelf(folder)


@pytest.fixture
def make_store(shelf: Shelf, tmp_path: Path) -> MakeStore:
    return lambda: BlobsStore("blobs://shelf/x", lambda: BlobsAccess(shelf, "shelf"), folder=str(tmp_path / "parts" / "own"))


class TestBlobs(StoreContract):
    @pytest.fixture
    def make_store(self, shelf: Shelf, tmp_path: Path) -> MakeStore:
        return lambda: BlobsStore("blobs://shelf/x", lambda: BlobsAccess(shelf, "shelf"), folder=str(tmp_path / "parts" / "own"))


@pytest.mark.anyio
async def test_ranges_are_read_from_what_was_loaded_once(make_store: MakeStore, shelf: Shelf) -> None:
    content = os.urandom(3_000_000)
    async with make_store() as store:
        await store.put("k", Body.of(content))
        for offset in range(0, len(content), 500_000):
            assert await store.get("k", offset=offset, size_bytes=500_000) == content[offset : offset + 500_000]
        assert shelf.loads == ["k"]
        # What is stored in its place is what is read then.
        await store.put("k", Body.of(b"other"))
        assert await store.get("k", offset=1, size_bytes=2) == b"th"
        for number in range(10):
            await store.put(f"n/{number}", Body.of(b"content"))
            await store.get(f"n/{number}", offset=1)
        assert len([name for name in os.listdir(shelf._folder) if name.startswith("tmp ")]) == 4
    assert [name for name in os.listdir(shelf._folder) if name.startswith("tmp ")] == []


@pytest.mark.anyio
async def test_an_object_that_could_not_be_saved_is_saved_by_a_repetition(
    make_store: MakeStore, shelf: Shelf, tmp_path: Path
) -> None:
    async with make_store() as store:
        upload_id = await store.begin_multipart("m/k")
        parts = [await store.put_part("m/k", upload_id, number, (number - 1) * 3, Body.of(b"abc")) for number in (1, 2)]
        shelf.fails = 1
        with pytest.raises(StoreUnavailable, match="RuntimeError: away") as caught:
            await store.complete_multipart("m/k", upload_id, parts)
        assert "secret" not in str(caught.value)
        info = await store.complete_multipart("m/k", upload_id, parts)
        assert await store.head("m/k") == info and await store.get("m/k") == b"abcabc"
        with pytest.raises(StoreObjectMissing):
            await store.complete_multipart("m/k", upload_id, parts)
    # Nothing of it is left here.
    assert [name for _, _, names in os.walk(tmp_path / "parts") for name in names] == []


@pytest.mark.anyio
async def test_what_never_returns_holds_nobody(make_store: MakeStore, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def stand_still(key: str, content: BinaryIO) -> None:
        begun.set()
        let_go.wait(60)

    monkeypatch.setattr(shelf, "save", stand_still)
    try:
        with anyio.fail_after(30):
            async with make_store() as store, anyio.create_task_group() as group:
                group.start_soon(store.put, "k", Body.of(b"x"))
                assert await anyio.to_thread.run_sync(begun.wait, 20)
                group.cancel_scope.cancel()
    finally:
        let_go.set()


@pytest.mark.anyio
async def test_a_listing_fails_like_any_call(make_store: MakeStore, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_store() as store:
        await store.put("k", Body.of(b"x"))

        def away(key: str) -> int:
            raise TimeoutError("away")

        monkeypatch.setattr(shelf, "size", away)
        with pytest.raises(StoreUnavailable, match="TimeoutError: away"):
            await store.list("")


@pytest.mark.anyio
async def test_what_can_not_delete_says_so(make_store: MakeStore, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(keys: Sequence[str]) -> None:
        raise NotImplementedError

    monkeypatch.setattr(shelf, "delete", refuse)
    async with make_store() as store:
        with pytest.raises(StoreRejected, match="can't delete"):
            await store.delete(["k"])
