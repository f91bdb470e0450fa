from __future__ import annotations

import itertools
import random
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import Body, Store
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.catalog import latest_of, list_scope, list_task, resolve
from ckpt_async.transfer.commit import POINTER_TRIES, advance_pointer, commit
from ckpt_async.transfer.download import read_manifest
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointError, StorePreconditionFailed, StoreUnavailable
from ckpt_async.words.records import CheckpointRecord
from tests.transfer.parts import FILES, SmallMemory, identity, job_of, record_of, save_whole, send

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0
POINTER = keys.task_latest_key(identity().pathspec)
SCOPE_POINTER = keys.scope_latest_key(identity())


def name_of(key: str) -> str:
    kinds = {"artifacts": "data", "manifests": "manifest", "metadata": "task record", "artifact_metadata": "record"}
    kind = kinds[key.split("/")[2]]
    if key.endswith("/latest"):
        return {"task record": "task latest", "record": "scope latest"}[kind]
    return kind


async def test_the_store_sees_the_one_order(tmp_path: Path) -> None:
    store = FaultyStore(SmallMemory())
    await save_whole(store, job_of(tmp_path / "spool"))
    writes = [name_of(key) for call, key in store.calls if call in ("put", "put_part", "complete_multipart")]
    order = [name for name, _ in itertools.groupby(writes)]
    assert order == ["data", "manifest", "record", "task record", "task latest", "scope latest"]


async def check_promise(store: Store) -> None:
    """Whatever a reader finds is complete: followed, listed, or named."""
    found = set()
    for pointer in (POINTER, SCOPE_POINTER):
        if (record := await latest_of(store, pointer)) is not None:
            found.add(record.key)
            assert await resolve(store, record.key) == record, "latest names a checkpoint that there is"
    listings = [await list_task(store, identity().pathspec), await list_scope(store, keys.scope_records_prefix(identity()))]
    found |= {record.key for listing in listings for record in listing.records}
    for key in found:
        record = next(record for listing in listings for record in listing.records if record.key == key)
        manifest = await read_manifest(store, record)
        for file in manifest.files:
            info = await store.head(f"{key}/{file.path}")
            assert info is not None and info.size_bytes == file.size_bytes


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_at_any_step_leaves_nothing_half_and_can_be_repeated(tmp_path: Path, after: bool) -> None:
    job = job_of(tmp_path / "spool")
    for step in itertools.count(1):
        inner = SmallMemory()
        manifest = (await send(inner, job)).manifest
        faulty = FaultyStore(inner, [Fault("*", calls={step}, after=after)])
        try:
            await commit(faulty, identity(), job.record, manifest, latest=True)
            done = True
        except StoreUnavailable:
            done = False
        await check_promise(inner)
        await commit(inner, identity(), job.record, manifest, latest=True)
        await check_promise(inner)
        assert await latest_of(inner, POINTER) == await latest_of(inner, SCOPE_POINTER) == job.record
        if done:
            break
    assert step > 6


async def test_without_latest_the_pointers_stay(tmp_path: Path) -> None:
    store = SmallMemory()
    await save_whole(store, job_of(tmp_path / "spool"), latest=False)
    assert await latest_of(store, POINTER) is None is await latest_of(store, SCOPE_POINTER)
    assert len((await list_task(store, identity().pathspec)).records) == 1


@pytest.fixture(params=["memory", "local"])
def race_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LocalStore(str(tmp_path))


async def test_of_many_writers_the_latest_wins_and_the_pointer_never_moves_back(race_store: Store) -> None:
    records = [record_of(version, attempt=attempt) for attempt in range(3) for version in range(10)]
    random.Random(5).shuffle(records)
    seen: list[tuple[int, int]] = []
    finished = anyio.Event()

    async def look() -> None:
        while not finished.is_set():
            if (record := await latest_of(race_store, POINTER)) is not None:
                seen.append(record.order)

    async def write(record: CheckpointRecord) -> None:
        moved = await advance_pointer(race_store, POINTER, record)
        assert not moved or record.order <= max(one.order for one in records)

    async with race_store:
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(look)
                async with anyio.create_task_group() as writers:
                    for record in records:
                        writers.start_soon(write, record)
                finished.set()
        assert (await latest_of(race_store, POINTER)).order == (2, 9)  # type: ignore[union-attr]
    assert seen == sorted(seen)


async def test_a_pointer_tells_whether_it_names_the_record() -> None:
    store = MemoryStore()
    assert await advance_pointer(store, POINTER, record_of(3))
    assert await advance_pointer(store, POINTER, record_of(3))
    assert not await advance_pointer(store, POINTER, record_of(2))
    assert not await advance_pointer(store, POINTER, record_of(2, attempt=0, now_unix_ns=2**62))
    assert await advance_pointer(store, POINTER, record_of(0, attempt=1))
    assert not await advance_pointer(store, POINTER, record_of(99, attempt=0))


async def test_a_write_whose_answer_was_lost_is_recognised() -> None:
    store = FaultyStore(MemoryStore(), [Fault("put", calls={1}, after=True, error=lambda: StorePreconditionFailed("x"))])
    assert await advance_pointer(store, POINTER, record_of(1))


async def test_a_damaged_pointer_is_repaired() -> None:
    for damage in (b"", b"{}", b"\xff", b"[" * 10_000):
        store = MemoryStore()
        await store.put(POINTER, Body.of(damage))
        assert await advance_pointer(store, POINTER, record_of(1))
        assert await latest_of(store, POINTER) == record_of(1, now_unix_ns=(await latest_of(store, POINTER)).saved_at_unix_ns)  # type: ignore[union-attr]


async def test_a_pointer_that_vanishes_meanwhile_is_written() -> None:
    objects = MemoryObjects()

    class Vanishing(MemoryStore):
        async def get(self, key: str, **named: object) -> bytes:  # type: ignore[override]
            objects.contents.pop(key, None)
            return await super().get(key, **named)  # type: ignore[arg-type]

    await MemoryStore(objects).put(POINTER, Body.of(record_of(0).to_json()))
    assert await advance_pointer(Vanishing(objects), POINTER, record_of(1))


async def test_a_pointer_that_others_change_for_ever_ends_in_a_transient_error() -> None:
    def changed() -> CheckpointError:
        return StorePreconditionFailed("store an object")

    store = FaultyStore(MemoryStore(), [Fault("put", error=changed)])  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match=f"{POINTER_TRIES} times"):
        await advance_pointer(store, POINTER, record_of(1))


async def test_between_runs_of_a_scope_the_later_save_is_the_latest(tmp_path: Path) -> None:
    store = SmallMemory()
    for run, when in (("1", 10), ("3", 30), ("2", 20)):
        await save_whole(store, job_of(tmp_path / run, {"f": FILES["small"]}, run=run, now_unix_ns=when))
    latest = await latest_of(store, SCOPE_POINTER)
    assert latest is not None and latest.pathspec == "Flow/3/train/2"
