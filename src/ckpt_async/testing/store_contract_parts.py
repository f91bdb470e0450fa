"""The part of a store's contract that is about objects made of parts and about copies; see `ckpt_async.testing.store_contract`."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio
import pytest

from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store
from ckpt_async.words.errors import InvalidArgument, StoreObjectMissing, StorePreconditionFailed, StoreRejected

__all__ = ["MakeStore", "PartsContract", "gather"]

MakeStore = Callable[[], Store]


async def gather(*calls: Callable[[], object]) -> None:
    """Await calls side by side."""
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call)  # type: ignore[arg-type]


class PartsContract:
    """What every store does with parts and copies."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Return a function that returns, each time, another instance over the same place, which is empty at first."""
        raise NotImplementedError("override the fixture make_store")

    def _parts(self, store: Store) -> list[bytes]:
        size_bytes = max(1000, store.traits.min_part_bytes)
        return [os.urandom(1000) * (size_bytes // 1000 + 1), os.urandom(size_bytes + 17), b"the end"]

    async def _put_parts(self, store: Store, key: str, upload_id: str, contents: list[bytes], order: list[int]) -> list[Part]:
        found: dict[int, Part] = {}

        async def put(index: int) -> None:
            offset = sum(len(content) for content in contents[:index])
            content = contents[index]
            middle = len(content) // 3
            body = Body((content[:middle], content[middle:]), len(content), zlib.crc32(content))
            found[index] = await store.put_part(key, upload_id, index + 1, offset, body)
            assert found[index].number == index + 1
            assert found[index].size_bytes == len(content)
            assert found[index].crc32 == zlib.crc32(content)

        await gather(*(partial(put, index) for index in order))
        return [found[index] for index in sorted(found)]

    async def test_an_object_in_parts(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            contents = self._parts(store)
            await store.put("m/k", Body.of(b"before"))
            upload_id = await store.begin_multipart("m/k")
            parts = await self._put_parts(store, "m/k", upload_id, contents, [2, 0, 1])
            # Nothing is seen until it is complete.
            assert await other.get("m/k") == b"before"
            assert [info.key for info in await other.list("")] == ["m/k"]
            info = await store.complete_multipart("m/k", upload_id, parts)
            assert info.size_bytes == sum(len(content) for content in contents)
            assert await other.get("m/k") == b"".join(contents)
            assert await other.head("m/k") == info
            assert await other.list("m/") == [info]

    async def test_the_order_of_named_parts_does_not_matter(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            parts = await self._put_parts(store, "m", upload_id, contents, [0, 1, 2])
            await store.complete_multipart("m", upload_id, parts[::-1])
            assert await store.get("m", offset=len(contents[0]) - 3, size_bytes=6) == contents[0][-3:] + contents[1][:3]

    async def test_one_small_part(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            upload_id = await store.begin_multipart("m")
            part = await store.put_part("m", upload_id, 1, 0, Body.of(b"all"))
            await store.complete_multipart("m", upload_id, [part])
            assert await store.get("m") == b"all"

    async def test_another_instance_goes_on_with_an_upload(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            early = await self._put_parts(store, "m", upload_id, contents, [0, 2])
        async with make_store() as store:
            late = await self._put_parts(store, "m", upload_id, contents, [1])
        async with make_store() as store:
            info = await store.complete_multipart("m", upload_id, [*early, *late])
            assert await store.head("m") == info
            assert await store.get("m") == b"".join(contents)

    async def test_a_part_sent_again_replaces_the_earlier_one(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            wrong = [contents[0], bytes(len(contents[1])), b"an end that is longer"]
            stale = await self._put_parts(store, "m", upload_id, wrong, [0, 1, 2])
            fresh = await self._put_parts(other, "m", upload_id, contents, [1, 2])
            await store.complete_multipart("m", upload_id, [stale[0], *fresh])
            assert await other.get("m") == b"".join(contents)

    async def test_naming_a_part_that_was_replaced(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            wrong = [contents[0], contents[1], b"another end, and a longer one"]
            stale = await self._put_parts(store, "m", upload_id, wrong, [0, 1, 2])
            await self._put_parts(other, "m", upload_id, contents, [2])
            # Never a mixture: it is refused, or a store that has kept the earlier part makes exactly what was named.
            try:
                await store.complete_multipart("m", upload_id, stale)
            except StoreRejected:
                assert await other.head("m") is None
            else:
                assert await other.get("m") == b"".join(wrong)

    async def test_a_part_that_was_never_stored(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            parts = await self._put_parts(store, "m", upload_id, contents, [0, 1])
            with pytest.raises(StoreRejected):
                await store.complete_multipart("m", upload_id, [*parts, Part(3, parts[0].etag, 7, parts[0].crc32)])
            assert await store.head("m") is None
            await store.abort_multipart("m", upload_id)

    async def test_completing_twice(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            parts = await self._put_parts(store, "m", upload_id, contents, [0, 1, 2])
            info = await store.complete_multipart("m", upload_id, parts)
            # Some stores remember a finished upload and answer as they did the first time.
            try:
                assert await other.complete_multipart("m", upload_id, parts) == info
            except StoreObjectMissing:
                pass
            with pytest.raises(StoreObjectMissing):
                await other.put_part("m", upload_id, 1, 0, Body.of(contents[0]))
            await other.abort_multipart("m", upload_id)
            assert await store.head("m") == info
            assert await store.get("m") == b"".join(contents)

    async def test_a_copy_stands_by_itself(self, make_store: MakeStore) -> None:
        content = os.urandom(300_000)
        async with make_store() as store, make_store() as other:
            info = await store.put("from/a b/ü", Body.of(content))
            source = CopySource(info.key, info.etag, 0, len(content), zlib.crc32(content))
            if store.traits.copies == "nothing":
                with pytest.raises(StoreRejected):
                    await store.copy("to/k", source)
                assert await other.list("to/") == []
                return
            for _ in range(2):
                copied = await store.copy("to/k", source)
                assert await other.head("to/k") == copied and copied.size_bytes == len(content)
            # Neither what becomes of the original nor of the copy is seen in the other.
            assert await other.get("to/k") == content
            again = await store.copy("to/again", source)
            await other.put("to/k", Body.of(b"other"))
            assert await store.get(info.key) == content
            await other.delete([info.key])
            assert await store.get("to/again") == content
            assert await store.list("to/") == [again, await store.head("to/k")]

    async def test_what_can_not_be_copied(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            info = await store.put("a", Body.of(b"content"))
            await store.put("there", Body.of(b"before"))
            good = CopySource("a", info.etag, 0, 7, zlib.crc32(b"content"))
            upload_id = await store.begin_multipart("m")
            for source, expected in (
                (replace(good, key="none"), StoreObjectMissing),
                (replace(good, etag='"00000000000000000000000000000000"'), StorePreconditionFailed),
            ):
                with pytest.raises(expected if store.traits.copies != "nothing" else StoreRejected):
                    await store.copy("there", source)
                with pytest.raises((expected, StoreRejected)) as caught:
                    await store.copy_part("m", upload_id, 1, 0, source)
                assert caught.type is (expected if store.traits.copies == "ranges" else StoreRejected)
            with pytest.raises(InvalidArgument):
                await store.copy("there", replace(good, key="../a"))
            assert await store.get("there") == b"before"
            await store.abort_multipart("m", upload_id)
            with pytest.raises(StoreObjectMissing if store.traits.copies == "ranges" else StoreRejected):
                await store.copy_part("m", upload_id, 1, 0, good)

    async def test_parts_that_are_copied_and_parts_that_are_sent(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            size_bytes = max(1000, store.traits.min_part_bytes)
            old = os.urandom(2 * size_bytes + 17)
            info = await store.put("old", Body.of(old))
            upload_id = await store.begin_multipart("new")
            fresh = os.urandom(size_bytes)

            async def copy(number: int, offset: int, length: int) -> Part:
                try:
                    return await store.copy_part("new", upload_id, number, offset, self._source(info, old, offset, length))
                except StoreRejected:
                    assert store.traits.copies != "ranges"
                return await store.put_part("new", upload_id, number, offset, Body.of(old[offset : offset + length]))

            parts = [
                await other.put_part("new", upload_id, 2, size_bytes, Body.of(fresh)),
                await copy(1, 0, size_bytes),
                await copy(3, 2 * size_bytes, 17),
            ]
            await store.delete(["old"])
            assert await store.complete_multipart("new", upload_id, parts) == await other.head("new")
            assert await other.get("new") == old[:size_bytes] + fresh + old[2 * size_bytes :]

    @staticmethod
    def _source(info: ObjectInfo, content: bytes, offset: int, size_bytes: int) -> CopySource:
        return CopySource(info.key, info.etag, offset, size_bytes, zlib.crc32(content[offset : offset + size_bytes]))

    async def test_giving_an_upload_up(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            contents = self._parts(store)
            upload_id = await store.begin_multipart("m")
            parts = await self._put_parts(store, "m", upload_id, contents, [0])
            await other.abort_multipart("m", upload_id)
            await store.abort_multipart("m", upload_id)
            with pytest.raises(StoreObjectMissing):
                await store.put_part("m", upload_id, 2, len(contents[0]), Body.of(contents[1]))
            with pytest.raises(StoreObjectMissing):
                await store.complete_multipart("m", upload_id, parts)
            assert await store.list("") == []

    async def test_unfinished_uploads_are_listed(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            if await store.list_multipart("") is None:
                assert await store.list_multipart("a/") is None  # It can't tell.
                return
            assert await store.list_multipart("") == []
            begun_s = time.time()
            first = await store.begin_multipart("a/b/k")
            await store.put_part("a/b/k", first, 1, 0, Body.of(b"some"))
            second = await store.begin_multipart("a/b/l")
            third = await store.begin_multipart("a/c")
            done = await store.begin_multipart("a/d")
            await store.complete_multipart("a/d", done, [await store.put_part("a/d", done, 1, 0, Body.of(b"all"))])
            found = await other.list_multipart("a/")
            assert found is not None
            assert sorted(one.key for one in found) == ["a/b/k", "a/b/l", "a/c"]
            assert len({one.upload_id for one in found}) == 3
            # Clocks of two machines, and of file systems, differ by some seconds.
            assert all(begun_s - 60 < one.since_unix_s < time.time() + 60 for one in found)
            assert sorted(one.key for one in await other.list_multipart("a/b/") or ()) == ["a/b/k", "a/b/l"]
            assert await other.list_multipart("x/") == []
            # What is listed can be given up.
            for one in found:
                await other.abort_multipart(one.key, one.upload_id)
            assert await store.list_multipart("") == []
            with pytest.raises(StoreObjectMissing):
                await store.put_part("a/b/l", second, 1, 0, Body.of(b"late"))
            with pytest.raises(StoreObjectMissing):
                await store.put_part("a/c", third, 1, 0, Body.of(b"late"))
            with pytest.raises(InvalidArgument):
                await store.list_multipart("/a/")

    async def test_unknown_uploads(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            upload_id = await store.begin_multipart("m")
            await store.abort_multipart("m", upload_id)
            for unknown in (upload_id, "", "nonsense", "../../etc/passwd"):
                with pytest.raises(StoreObjectMissing):
                    await store.put_part("m", unknown, 1, 0, Body.of(b"x"))
                with pytest.raises(StoreObjectMissing):
                    await store.complete_multipart("m", unknown, [Part(1, '"etag"', 1, 0)])
                await store.abort_multipart("m", unknown)

    async def test_two_uploads_of_one_key(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            contents = [self._parts(store), self._parts(store)]
            uploads = [await store.begin_multipart("m"), await other.begin_multipart("m")]
            assert uploads[0] != uploads[1]
            parts = [
                await self._put_parts((other, store)[number], "m", uploads[number], contents[number], [1, 0, 2])
                for number in (0, 1)
            ]
            await store.complete_multipart("m", uploads[0], parts[0])
            assert await other.get("m") == b"".join(contents[0])
            try:
                await store.complete_multipart("m", uploads[1], parts[1])
            except StoreRejected:
                # A store that holds one at a time: what was stored stays, and the other begins anew.
                assert await other.get("m") == b"".join(contents[0])
                await store.abort_multipart("m", uploads[1])
                uploads[1] = await store.begin_multipart("m")
                parts[1] = await self._put_parts(other, "m", uploads[1], contents[1], [0, 1, 2])
                await store.complete_multipart("m", uploads[1], parts[1])
            assert await other.get("m") == b"".join(contents[1])
