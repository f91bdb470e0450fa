"""The contract of a store as tests. Subclass `StoreContract`, override its fixture `make_store`, and pytest runs the suite.

It needs pytest and the pytest plugin of anyio, with the backend ``asyncio``. One test carries the mark ``slow``.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store
from ckpt_async.words.errors import InvalidArgument, StoreObjectMissing, StorePreconditionFailed, StoreRejected

__all__ = ["BAD_KEYS", "MakeStore", "StoreContract"]

MakeStore = Callable[[], Store]

BAD_KEYS = ("", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a\0b")
ODD_KEYS = (
    "with space/a b", "ü/ñ/日本", "a+b", "a%2Fb", "a&b=c", "a?b", "a#b", "it's", 'a"b', "a<b>", "a~b", "a@b:c", ".hidden/.b",
    "a.b..c",
)  # fmt: skip
RACERS = 8
DEADLINE_S = 60.0


async def _gather(*calls: Callable[[], object]) -> None:
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call)  # type: ignore[arg-type]


class StoreContract:
    """What every store does, whoever else writes into it meanwhile."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Return a function that returns, each time, another instance over the same place, which is empty at first."""
        raise NotImplementedError("override the fixture make_store")

    async def test_what_is_put_is_got(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            info = await store.put("a/b/c", Body((b"one", b"", b"two"), 6, zlib.crc32(b"onetwo")))
            assert (info.key, info.size_bytes) == ("a/b/c", 6)
            assert info.etag
            for reader in (store, other):
                assert await reader.get("a/b/c") == b"onetwo"
                assert await reader.head("a/b/c") == info
                assert await reader.list("") == [info]

    async def test_an_empty_object(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            info = await store.put("empty", Body((), 0, 0))
            assert info.size_bytes == 0
            assert await store.get("empty") == b""
            assert await store.get("empty", offset=0, size_bytes=10) == b""
            assert await store.head("empty") == info

    async def test_ranges(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            await store.put("k", Body.of(b"0123456789"))
            assert await store.get("k", offset=3) == b"3456789"
            assert await store.get("k", offset=3, size_bytes=4) == b"3456"
            assert await store.get("k", size_bytes=2) == b"01"
            assert await store.get("k", offset=8, size_bytes=100) == b"89"
            assert await store.get("k", offset=10) == b""
            assert await store.get("k", offset=99, size_bytes=1) == b""
            assert await store.get("k", offset=2, size_bytes=0) == b""
            with pytest.raises(StoreObjectMissing):
                await store.get("none", offset=2, size_bytes=0)
            with pytest.raises(StoreObjectMissing):
                await store.get("none", offset=2, size_bytes=5)

    async def test_what_is_missing(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            assert await store.head("a/none") is None
            assert await store.list("") == []
            assert await store.list("a/") == []
            await store.delete([])
            await store.delete(["a/none", "other"])
            with pytest.raises(StoreObjectMissing):
                await store.get("a/none")
            await store.put("a/some", Body.of(b"x"))
            # Neither a folder above an object nor a name below one is an object.
            assert await store.head("a") is None
            assert await store.head("a/some/below") is None
            assert await store.list("a/some/") == []
            with pytest.raises(StoreObjectMissing):
                await store.get("a")
            with pytest.raises(StoreObjectMissing):
                await store.get("a/some/below")
            await store.delete(["a", "a/some/below"])
            assert [info.key for info in await store.list("")] == ["a/some"]

    @pytest.mark.parametrize("key", BAD_KEYS)
    async def test_bad_keys(self, make_store: MakeStore, key: str) -> None:
        body, part, source = Body.of(b"x"), Part(1, "etag", 1, 0), CopySource("good", '"etag"', 0, 1, 0)
        async with make_store() as store:
            for call in (
                partial(store.put, key, body),
                partial(store.copy, key, source),
                partial(store.copy_part, key, "0" * 24, 1, 0, source),
                partial(store.get, key),
                partial(store.head, key),
                partial(store.delete, ["good", key]),
                partial(store.begin_multipart, key),
                partial(store.put_part, key, "0" * 24, 1, 0, body),
                partial(store.complete_multipart, key, "0" * 24, [part]),
                partial(store.abort_multipart, key, "0" * 24),
            ):
                with pytest.raises(InvalidArgument):
                    await call()
            if key:
                with pytest.raises(InvalidArgument):
                    await store.list(key if key.endswith("//") else key.removesuffix("/") + "//")

    async def test_odd_keys(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            for key in ODD_KEYS:
                await store.put(f"odd/{key}", Body.of(key.encode()))
            assert [info.key for info in await other.list("odd/")] == sorted(f"odd/{key}" for key in ODD_KEYS)
            for key in ODD_KEYS:
                assert await other.get(f"odd/{key}") == key.encode()
            await other.delete([f"odd/{key}" for key in ODD_KEYS])
            assert await store.list("") == []

    async def test_replacing(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            first = await store.put("k", Body.of(b"first"))
            second = await other.put("k", Body.of(b"other"))
            assert second.etag != first.etag
            assert await store.get("k") == b"other"
            assert await store.head("k") == second
            # A repetition has the effect of one call.
            again = await store.put("k", Body.of(b"other"))
            assert await other.head("k") == again
            assert await other.get("k") == b"other"

    async def test_the_etag_changes_with_every_quick_change(self, make_store: MakeStore) -> None:
        async with make_store() as store:
            etags = [(await store.put("k", Body.of(b"%06d" % number))).etag for number in range(30)]
            assert len(set(etags)) == 30

    async def test_conditions(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            if not store.traits.conditional_writes:
                pytest.skip("this store has no conditional writes")
            with pytest.raises(StorePreconditionFailed):
                await store.put("a/k", Body.of(b"x"), if_match='"00000000000000000000000000000000"')
            assert await store.head("a/k") is None
            first = await store.put("a/k", Body.of(b"first"), if_absent=True)
            with pytest.raises(StorePreconditionFailed):
                await other.put("a/k", Body.of(b"second"), if_absent=True)
            assert await other.get("a/k", if_match=first.etag) == b"first"
            second = await other.put("a/k", Body.of(b"second"), if_match=first.etag)
            with pytest.raises(StorePreconditionFailed):
                await store.put("a/k", Body.of(b"third"), if_match=first.etag)
            assert await store.get("a/k", if_match=second.etag) == b"second"
            with pytest.raises(StorePreconditionFailed):
                await store.get("a/k", if_match=first.etag)
            await store.delete(["a/k"])
            with pytest.raises(StorePreconditionFailed):
                await other.put("a/k", Body.of(b"fourth"), if_match=second.etag)
            await other.put("a/k", Body.of(b"fifth"), if_absent=True)

    @pytest.mark.parametrize("absent", [True, False])
    async def test_races_have_one_winner(self, make_store: MakeStore, absent: bool) -> None:
        async with make_store() as store, make_store() as other:
            if not store.traits.conditional_writes:
                pytest.skip("this store has no conditional writes")
            for round_number in range(2):
                key = f"race/{round_number}"
                etag = None if absent else (await store.put(key, Body.of(b"start"))).etag
                winners: list[tuple[bytes, ObjectInfo]] = []

                async def write(
                    number: int, key: str = key, etag: str | None = etag, won: list[tuple[bytes, ObjectInfo]] = winners
                ) -> None:
                    content = b"writer %d" % number
                    try:
                        info = await (store, other)[number % 2].put(key, Body.of(content), if_match=etag, if_absent=absent)
                    except StorePreconditionFailed:
                        return
                    won.append((content, info))

                await _gather(*(partial(write, number) for number in range(RACERS)))
                assert len(winners) == 1
                assert await store.get(key) == winners[0][0]
                assert await other.head(key) == winners[0][1]

    async def test_listing(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            # "a-b" and "ab/c" come next to "a/...", and are not below it.
            for key in ("b/x", "a/2", "a-b", "ab/c", "a/1/z", "a/10", "a/1/y"):
                await store.put(key, Body.of(key.encode()))
            await other.put("a/3", Body.of(b"behind the back"))
            assert [info.key for info in await store.list("a/")] == ["a/1/y", "a/1/z", "a/10", "a/2", "a/3"]
            assert [info.key for info in await store.list("a/1/")] == ["a/1/y", "a/1/z"]
            everything = await store.list("")
            assert [info.key for info in everything] == sorted(info.key for info in everything)
            assert len(everything) == 8
            for info in everything:
                assert await other.head(info.key) == info

    @pytest.mark.slow
    async def test_more_keys_than_one_page(self, make_store: MakeStore) -> None:
        keys = [f"many/{number % 7}/{number:05d}" for number in range(1205)]
        async with make_store() as store:
            queue = iter(keys)

            async def write() -> None:
                for key in queue:
                    await store.put(key, Body.of(b""))

            await _gather(*([write] * 16))
            assert [info.key for info in await store.list("many/")] == sorted(keys)
            await store.delete([*keys, "many/none"])
            assert await store.list("") == []

    async def test_deleting(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            for key in ("d/1", "d/2", "d/e/3", "f"):
                await store.put(key, Body.of(b"x"))
            await other.delete(["d/1", "d/1", "d/e/3"])
            assert await store.head("d/1") is None
            await store.delete(["d/1", "d/2", "d/e/3"])
            await store.delete(["d/1", "d/2", "d/e/3"])
            assert [info.key for info in await other.list("")] == ["f"]
            # What was emptied takes objects again.
            await other.put("d/e/4", Body.of(b"new"))
            assert await store.get("d/e/4") == b"new"

    async def test_writers_and_deleters_of_one_folder(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:

            async def churn(writer: Store, number: int) -> None:
                for turn in range(10):
                    await writer.put(f"deep/er/{number}/{turn}", Body.of(b"x"))
                    await writer.delete([f"deep/er/{number}/{turn}"])

            await _gather(*(partial(churn, (store, other)[number % 2], number) for number in range(6)))
            assert await store.list("") == []

    async def test_a_replacement_is_never_seen_in_half(self, make_store: MakeStore) -> None:
        contents = [bytes([letter]) * 300_000 for letter in b"ab"]
        async with make_store() as store, make_store() as other:
            await store.put("k", Body.of(contents[0]))
            done = anyio.Event()

            async def write() -> None:
                for turn in range(20):
                    await store.put("k", Body.of(contents[turn % 2]))
                done.set()

            async def read() -> None:
                while not done.is_set():
                    assert await other.get("k") in contents
                    assert [info.size_bytes for info in await other.list("")] == [300_000]

            await _gather(write, read, read)

    async def test_many_calls_at_once(self, make_store: MakeStore) -> None:
        async with make_store() as store:

            async def round_trip(number: int) -> None:
                content = b"%d" % number * 1000
                await store.put(f"n/{number}", Body.of(content))
                assert await store.get(f"n/{number}") == content

            await _gather(*(partial(round_trip, number) for number in range(60)))
            assert len(await store.list("n/")) == 60

    async def test_a_cancelled_put_leaves_old_or_new(self, make_store: MakeStore) -> None:
        old, new = b"o" * 200_000, b"n" * 200_000
        async with make_store() as store, make_store() as other:
            for steps in range(12):
                await store.put("k", Body.of(old))
                async with anyio.create_task_group() as group:
                    group.start_soon(store.put, "k", Body.of(new))
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                assert await other.get("k") in (old, new)
                assert [info.key for info in await other.list("")] == ["k"]
            # It still works afterwards.
            with anyio.fail_after(DEADLINE_S):
                await store.put("k", Body.of(b"after"))
                assert await other.get("k") == b"after"

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

        await _gather(*(partial(put, index) for index in order))
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
                with pytest.raises(expected):
                    await store.copy("there", source)
                with pytest.raises(expected):
                    await store.copy_part("m", upload_id, 1, 0, source)
            with pytest.raises(InvalidArgument):
                await store.copy("there", replace(good, key="../a"))
            assert await store.get("there") == b"before"
            await store.abort_multipart("m", upload_id)
            with pytest.raises(StoreObjectMissing):
                await store.copy_part("m", upload_id, 1, 0, good)

    async def test_parts_that_are_copied_and_parts_that_are_sent(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            size_bytes = max(1000, store.traits.min_part_bytes)
            old = os.urandom(2 * size_bytes + 17)
            info = await store.put("old", Body.of(old))
            upload_id = await store.begin_multipart("new")
            fresh = os.urandom(size_bytes)
            parts = [
                await other.put_part("new", upload_id, 2, size_bytes, Body.of(fresh)),
                await store.copy_part("new", upload_id, 1, 0, self._source(info, old, 0, size_bytes)),
                await store.copy_part("new", upload_id, 3, 2 * size_bytes, self._source(info, old, 2 * size_bytes, 17)),
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
            for number in (0, 1):
                await store.complete_multipart("m", uploads[number], parts[number])
                assert await other.get("m") == b"".join(contents[number])

    async def test_leaving_with_the_store_untouched(self, make_store: MakeStore) -> None:
        async with make_store():
            pass
