"""The contract of a store as tests. Subclass `StoreContract`, override its fixture `make_store`, and pytest runs the suite.

It needs pytest and the pytest plugin of anyio, with the backend ``asyncio``. One test carries the mark ``slow``.
"""

from __future__ import annotations

import time
import zlib
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store
from ckpt_async.testing.store_contract_parts import MakeStore, PartsContract, gather
from ckpt_async.words.errors import InvalidArgument, StoreObjectMissing, StorePreconditionFailed

__all__ = ["BAD_KEYS", "MakeStore", "StoreContract"]

BAD_KEYS = ("", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a\0b")
ODD_KEYS = (
    "with space/a b", "ü/ñ/日本", "a+b", "a%2Fb", "a&b=c", "a?b", "a#b", "it's", 'a"b', "a<b>", "a~b", "a@b:c", ".hidden/.b",
    "a.b..c",
)  # fmt: skip
RACERS = 8
DEADLINE_S = 60.0


class StoreContract(PartsContract):
    """What every store does, whoever else writes into it meanwhile.

    Attributes
    ----------
    many : int
        More keys than the store lists, or deletes, by one request.
    """

    many = 1205

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
            buffer = memoryview(bytearray(6))
            for offset, expected in ((0, b"012345"), (3, b"345678"), (7, b"789"), (10, b""), (99, b"")):
                found = await store.get_into("k", buffer, offset=offset)
                assert bytes(buffer[:found]) == expected
            assert await store.get_into("k", buffer[:0], offset=2) == 0
            with pytest.raises(StoreObjectMissing):
                await store.get("none", offset=2, size_bytes=0)
            with pytest.raises(StoreObjectMissing):
                await store.get("none", offset=2, size_bytes=5)
            with pytest.raises(StoreObjectMissing):
                await store.get_into("none", buffer, offset=2)

    async def test_pages_have_what_the_list_has(self, make_store: MakeStore) -> None:
        async with make_store() as store, make_store() as other:
            for key in ("a", "p/a.b", "p/a/b", "p/a/b.c", "p/b", "p/z/z/z", "q/a"):
                await other.put(key, Body.of(key.encode()))
            for prefix in ("", "p/", "p/a/", "none/"):
                found, token = await store.list_page(prefix)
                while token:
                    page, token = await store.list_page(prefix, token)
                    found += page
                assert sorted(found, key=lambda info: info.key) == await store.list(prefix)
            for info in await store.list("p/"):
                # Where it is told at all. Clocks of two machines, and of file systems, differ by some seconds.
                assert info.stored_unix_s is None or abs(info.stored_unix_s - time.time()) < 600
            with pytest.raises(InvalidArgument):
                await store.list_page("/p/")

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

                await gather(*(partial(write, number) for number in range(RACERS)))
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
        keys = [f"many/{number % 7}/{number:05d}" for number in range(self.many)]
        async with make_store() as store:
            queue = iter(keys)

            async def write() -> None:
                for key in queue:
                    await store.put(key, Body.of(b""))

            await gather(*([write] * 16))
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

            await gather(*(partial(churn, (store, other)[number % 2], number) for number in range(6)))
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

            await gather(write, read, read)

    async def test_many_calls_at_once(self, make_store: MakeStore) -> None:
        async with make_store() as store:

            async def round_trip(number: int) -> None:
                content = b"%d" % number * 1000
                await store.put(f"n/{number}", Body.of(content))
                assert await store.get(f"n/{number}") == content

            await gather(*(partial(round_trip, number) for number in range(60)))
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
            # It still works afterwards. Under another key: a request that was cancelled may reach a server a moment later.
            with anyio.fail_after(DEADLINE_S):
                await store.put("after", Body.of(b"after"))
                assert await other.get("after") == b"after"

    async def test_leaving_with_the_store_untouched(self, make_store: MakeStore) -> None:
        async with make_store():
            pass
