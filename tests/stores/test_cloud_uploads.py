"""Uploads in parts on Azure and Google Cloud Storage, where one call of the contract is several requests."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ckpt_async.stores import in_threads
from ckpt_async.stores.azure import client as azure_client
from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store, UnfinishedUpload
from ckpt_async.stores.gcs import client as gcs_client
from ckpt_async.stores.gcs.store import _unix_s
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.stores.upload_marks import HIDDEN_FOLDER, UploadMarks
from ckpt_async.testing.azurite import TestToken
from ckpt_async.words.errors import InvalidArgument, StoreMissing, StoreObjectMissing, StoreRejected, StoreUnavailable
from tests.fixtures_clouds import AzurePlace, GcsPlace

pytestmark = pytest.mark.anyio

CloudPlace = AzurePlace | GcsPlace


@pytest.fixture(params=["azure_place", "gcs_place"])
def place(request: pytest.FixtureRequest, azure_place: AzurePlace, gcs_place: GcsPlace) -> CloudPlace:
    return azure_place if request.param == "azure_place" else gcs_place


async def parts_of(store: Store, key: str, upload_id: str, contents: list[bytes]) -> list[Part]:
    found, offset = [], 0
    for number, content in enumerate(contents, 1):
        found.append(await store.put_part(key, upload_id, number, offset, Body.of(content)))
        offset += len(content)
    return found


async def hidden(store: Any) -> list[str]:
    """What the store keeps of unfinished uploads."""
    client, _ = await store._caller._get("")
    prefix = f"{store._base}{HIDDEN_FOLDER}/"
    if hasattr(client, "page"):
        return [item["name"] for item in client.page(prefix, None).get("items", ())]
    return [blob.name for blob in client._container.list_blobs(name_starts_with=prefix)]


class Dying:
    """Lets the n-th request of a store be the last one: it is not sent, or it is, and nobody hears the answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._call = in_threads.Caller.call
        self.left: int | None = None
        self.sends = False
        self.made = 0
        dying = self

        async def call(caller: Any, attempted: str, on: str, act: Callable[..., Any]) -> Any:
            return await dying._pass(lambda: dying._call(caller, attempted, on, act))

        monkeypatch.setattr(in_threads.Caller, "call", call)

    async def _pass(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.made += 1
        if self.left is None:
            return await call()
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable("reach the store", cause="this process is dead")
        if self.left == 0:
            if self.sends:
                await call()
            raise StoreUnavailable("reach the store", cause="this process dies")
        return await call()


@pytest.mark.parametrize("sends", [False, True])
async def test_a_completion_that_dies_at_any_request_is_finished_by_another(
    place: CloudPlace, sends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Dying(monkeypatch)
    contents = [os.urandom(1000), os.urandom(900), b"end"]
    dies_at = finished = 0
    while not finished:
        dies_at += 1
        key = f"k{dies_at}"
        async with place.store() as store:
            upload_id = await store.begin_multipart(key)
            parts = await parts_of(store, key, upload_id, contents)
            dying.left, dying.sends = dies_at, sends
            try:
                await store.complete_multipart(key, upload_id, parts)
                finished = 1
            except StoreUnavailable:
                pass
            dying.left = None
        async with place.store() as other:
            try:
                info = await other.complete_multipart(key, upload_id, parts)
                assert await other.head(key) == info
            except StoreObjectMissing:
                # Then the first one had got to its end.
                assert finished or (sends and await other.head(key) is not None)
            assert await other.get(key) == b"".join(contents)
            assert await hidden(other) == []
            assert dies_at < 20


async def test_an_upload_is_given_up_by_repetitions_too(place: CloudPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = Dying(monkeypatch)
    async with place.store() as store:
        for dies_at in range(1, 5):
            upload_id = await store.begin_multipart("k")
            await parts_of(store, "k", upload_id, [b"a", b"b"])
            dying.left = dies_at
            try:
                await store.abort_multipart("k", upload_id)
            except StoreUnavailable:
                pass
            dying.left = None
            await store.abort_multipart("k", upload_id)
            assert await hidden(store) == []


async def test_what_is_unfinished_is_no_object_and_nobody_may_touch_it(place: CloudPlace) -> None:
    async with place.store() as store:
        upload_id = await store.begin_multipart("k")
        await parts_of(store, "k", upload_id, [b"a"])
        assert await store.list("") == [] and await hidden(store) != []
        for call in (store.head, store.get, lambda key: store.put(key, Body.of(b"x")), lambda key: store.delete([key]), store.list):
            with pytest.raises(InvalidArgument):
                await call(f"{HIDDEN_FOLDER}/{upload_id}/begun" if call is not store.list else f"{HIDDEN_FOLDER}/")
        # An upload of one key is none of another.
        with pytest.raises(StoreObjectMissing):
            await store.put_part("other", upload_id, 1, 0, Body.of(b"x"))
        await store.abort_multipart("k", upload_id)


async def test_more_parts_than_are_joined_at_once(gcs_place: GcsPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels: with parts in groups of 4, 4 of those, and what is left."""
    monkeypatch.setattr("ckpt_async.stores.gcs.store.COMPOSE_AT_ONCE", 4)
    contents = [b"%04d" % number for number in range(18)]
    async with gcs_place.store() as store:
        upload_id = await store.begin_multipart("k")
        parts = await parts_of(store, "k", upload_id, contents)
        info = await store.complete_multipart("k", upload_id, parts)
        assert info == await store.head("k") and await store.get("k") == b"".join(contents)
        assert await hidden(store) == []
        # A failure of one of them is that of the call.
        upload_id = await store.begin_multipart("k")
        parts = await parts_of(store, "k", upload_id, contents)
        compose = store._compose

        async def fail(attempted: str, key: str, *more: Any) -> Any:
            if key.endswith("joined-0-00002"):
                raise StoreUnavailable(attempted, cause="away")
            return await compose(attempted, key, *more)

        monkeypatch.setattr(store, "_compose", fail)
        with pytest.raises(StoreUnavailable, match="away"):
            await store.complete_multipart("k", upload_id, parts)
        monkeypatch.setattr(store, "_compose", compose)
        await store.complete_multipart("k", upload_id, parts)
        assert await hidden(store) == []


async def test_a_large_object_is_copied_as_a_whole_and_read_in_any_pieces(place: CloudPlace) -> None:
    content = os.urandom(8 << 20)
    async with place.store() as store:
        info = await store.put("old", Body.of(content))
        copied = await store.copy("new", CopySource("old", info.etag, 0, len(content), zlib.crc32(content)))
        assert copied.size_bytes == len(content)
        assert await store.get("new") == content
        for offset, size_bytes in ((0, len(content)), (1, 6 << 20), (4 << 20, 4 << 20), (4 << 20, 1 << 20), (8 << 20, 10)):
            room = memoryview(bytearray(size_bytes))
            expected = content[offset : offset + size_bytes]
            assert await store.get_into("new", room, offset=offset) == len(expected)
            assert bytes(room[: len(expected)]) == expected
            assert await store.get("new", offset=offset, size_bytes=size_bytes) == expected


async def test_a_place_that_is_not_there(place: CloudPlace) -> None:
    other = place.__class__(place.server, "no-such-bucket-at-all", "root")  # type: ignore[arg-type]
    async with other.store() as store:
        for call in (
            lambda: store.put("k", Body.of(b"x")),
            lambda: store.head("k"),
            lambda: store.get("k"),
            lambda: store.list(""),
            lambda: store.begin_multipart("k"),
        ):
            with pytest.raises(StoreMissing, match="Make the"):
                await call()


async def test_tokens_that_live_shorter_than_an_upload_are_renewed(azure_place: AzurePlace) -> None:
    """Azurite refuses what has expired; the library asks for another one five minutes before that."""
    token = TestToken(lifetime_s=200)
    async with azure_place.store(credential=lambda: token) as store:
        upload_id = await store.begin_multipart("k")
        parts = await parts_of(store, "k", upload_id, [b"one", b"two"])
        await store.complete_multipart("k", upload_id, parts)
        assert await store.get("k") == b"onetwo"
    assert token.given >= 4
    gone = TestToken(lifetime_s=-100)
    async with azure_place.store(credential=lambda: gone) as store:
        with pytest.raises(Exception, match="credential"):
            await store.head("k")


async def test_a_second_writer_of_one_key_on_azure_begins_anew(azure_place: AzurePlace) -> None:
    async with azure_place.store() as store, azure_place.store() as other:
        first, second = await store.begin_multipart("k"), await other.begin_multipart("k")
        parts = [await parts_of(store, "k", first, [b"first"]), await parts_of(other, "k", second, [b"second"])]
        await store.complete_multipart("k", first, parts[0])
        with pytest.raises(StoreRejected, match="InvalidBlock"):
            await other.complete_multipart("k", second, parts[1])
        assert await other.get("k") == b"first"


async def test_the_mark_of_an_upload_says_of_which_key_it_is(place: CloudPlace) -> None:
    async with place.store() as store:
        upload_id = await store.begin_multipart("a/k")
        [mark] = await hidden(store)
        client, _ = await store._caller._get("")  # type: ignore[attr-defined]
        if hasattr(client, "page"):
            with client._send("GET", f"/download{client._object_path(mark)}", {"alt": "media"}, {}, None, False) as answer:
                said = answer.content
        else:
            said = client._blob(mark).download_blob().readall()
        assert json.loads(said) == {"key": "a/k"} and upload_id in mark
        await store.abort_multipart("a/k", upload_id)


async def test_no_page_is_empty_because_of_what_is_not_shown(place: CloudPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_client, "PAGE_KEYS", 1)
    monkeypatch.setattr(gcs_client, "PAGE_KEYS", 1)
    async with place.store() as store:
        uploads = [await store.begin_multipart(key) for key in "abc"]
        for key in ("a", "b"):
            await store.put(key, Body.of(b"x"))
        first, token = await store.list_page("")
        second, token = await store.list_page("", token)
        assert [info.key for info in (*first, *second)] == ["a", "b"]
        assert {one.upload_id for one in await store.list_multipart("") or ()} == set(uploads)


async def test_an_upload_is_as_old_as_the_newest_thing_of_it(gcs_place: GcsPlace) -> None:
    async with gcs_place.store() as store:
        upload_id = await store.begin_multipart("k")
        [begun] = await store.list_multipart("") or ()
        await parts_of(store, "k", upload_id, [b"a"])
        [added_to] = await store.list_multipart("") or ()
        assert (begun.upload_id, added_to.upload_id) == (upload_id, upload_id) and added_to.since_unix_s > begun.since_unix_s


async def test_marks_that_are_none_of_ours_and_marks_without_an_age() -> None:
    objects = MemoryObjects()
    async with MemoryStore(objects) as store:
        marks = UploadMarks(store.put, store.head, store.get, store.delete, store.list_page)
        upload_id = await marks.begin("a/k")
        texts = (b"", b"{", b"[]", b"{}", b'{"key": 1}', b'{"key": "a/other"}')
        for number, text in enumerate(texts):
            await store.put(marks.path(f"{number:016d}{upload_id[16:]}", "begun"), Body.of(text))
        await store.put(f"{HIDDEN_FOLDER}/note", Body.of(b"mine"))
        await store.put(marks.path("name", "begun"), Body.of(b'{"key": "a/k"}'))
        info = await store.head(marks.path(upload_id, "begun"))
        assert info is not None and info.stored_unix_s is not None
        assert await marks.unfinished("a/") == [UnfinishedUpload("a/k", upload_id, info.stored_unix_s)]
        assert await marks.unfinished("b/") == []
        objects.contents[info.key] = (b"", ObjectInfo(info.key, 0, info.etag))
        assert await marks.unfinished("a/") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456789),
        ("1970-01-01T01:00:01.25+01:00", 1.25),
        ("", None),
        ("yesterday", None),
    ],
)
def test_times_of_google(text: str, expected: float | None) -> None:
    assert _unix_s(text) == expected
