"""Deleting a checkpoint: what remains is whole and can be found, whatever fails in between."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from ckpt_async.stores.contract import Body, Store
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.catalog import latest_of, list_scope, list_task, resolve
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.deletion import delete_checkpoint
from ckpt_async.transfer.download import download
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument, StoreUnavailable
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord
from tests.transfer.parts import identity, job_of, record_of, save_whole
from tests.transfer.test_foreign import both, member

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0
TASK_POINTER = keys.task_latest_key(identity().pathspec)
SCOPE_POINTER = keys.scope_latest_key(identity())
SCOPE = keys.scope_records_prefix(identity())


async def put_of_peer(store: Store, storage_format: str, name: str, when: int) -> CheckpointRecord:
    """Store what metaflow-checkpoint would: no manifest, and a name that stands in the keys as it was typed."""
    files = {"x": b"1", "sub/y": b"22"}
    archive = both(*(member(path, content) for path, content in files.items()))
    size_bytes = len(archive) if storage_format == "tar" else 3
    data = record_of(9, size_bytes=size_bytes, storage_format=storage_format, name=name, now_unix_ns=when).to_dict()
    data["key"] = data["key"].replace("~2E", ".")
    for ours in ("manifest", "save_number", "saved_at_unix_ns", "latest", "format_version"):
        del data[ours]
    text = Body.of(json.dumps(data).encode())
    for path, content in {"": archive}.items() if storage_format == "tar" else files.items():
        await store.put(f"{data['key']}/{path}".rstrip("/"), Body.of(content))
    await store.put(keys.record_key(data["key"]), text)
    await store.put(keys.task_record_key_of(data["key"], data["pathspec"]), text)
    return CheckpointRecord.from_dict(data, source="")


async def fill(store: Store, folder: Path) -> dict[str, CheckpointRecord]:
    """Two attempts of a task, and another run of its scope, in the order of time; the pointers name what is the newest."""

    async def save(version: int, name: str = "best", *, latest: bool = True, **about: object) -> CheckpointRecord:
        content = {"a": b"a" * 3, "deep/b": bytes([version]) * 1500}
        job = job_of(folder, content, version=version, name=name, **about)
        return await save_whole(store, job, latest=latest)

    return {
        "their files": await put_of_peer(store, "files", "model.v1", 10**18),
        "their tar": await put_of_peer(store, "tar", "model", 10**18),
        "older run": await save(0, run="7", now_unix_ns=2 * 10**18),
        "older": await save(0, attempt=1, now_unix_ns=3 * 10**18),
        "tar": await save(1, attempt=1, storage_format="tar", now_unix_ns=4 * 10**18),
        "newest": await save(10, attempt=1, now_unix_ns=5 * 10**18),
        "passed by": await save(11, "new.est", attempt=1, latest=False, now_unix_ns=6 * 10**18),
    }


def all_of(record: CheckpointRecord, stored: Iterable[str]) -> set[str]:
    """Return the keys of all that one checkpoint consists of."""
    records = {keys.record_key(record.key), keys.task_record_key_of(record.key, record.pathspec)}
    manifest = {record.manifest} - {""}
    return records | manifest | {key for key in stored if key == record.key or key.startswith(record.key + "/")}


async def found_in(store: Store) -> dict[str, CheckpointRecord]:
    """Whatever a reader finds, by its key; what a pointer names can be resolved."""
    found = {}
    for pointer in (TASK_POINTER, SCOPE_POINTER):
        if (record := await latest_of(store, pointer)) is not None:
            assert await resolve(store, record.key) == record, "a pointer names what there is"
            found[record.key] = record
    listings = [await list_task(store, identity().pathspec), await list_scope(store, SCOPE)]
    assert not any(listing.damaged for listing in listings)
    return found | {record.key: record for listing in listings for record in listing.records}


async def check_whole(store: Store, folder: Path) -> set[str]:
    """Load all that can be found; return the keys."""
    found = await found_in(store)
    for number, record in enumerate(found.values()):
        await download(store, record, str(folder / str(number)))
    return set(found)


@pytest.fixture(params=["memory", "local", "s3"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path, s3_store: Callable[[], S3Store]) -> Callable[[], Store]:
    objects = MemoryObjects()
    folder = str(tmp_path / "store")
    os.mkdir(folder)
    return {"memory": lambda: MemoryStore(objects), "local": lambda: LocalStore(folder), "s3": s3_store}[request.param]


async def test_one_after_the_other_goes_and_the_rest_stays(make_store: Callable[[], Store], tmp_path: Path) -> None:
    async with make_store() as store:
        saved = await fill(store, tmp_path / "sources")
        # The one deleted, and what the pointers of task and scope name then.
        for number, (name, of_task, of_scope) in enumerate(
            [
                ("passed by", "newest", "newest"),
                ("their files", "newest", "newest"),
                ("newest", "tar", "tar"),
                ("older", "tar", "tar"),
                ("tar", "their tar", "older run"),
                ("their tar", None, "older run"),
                ("older run", None, None),
            ]
        ):
            record = saved.pop(name)
            before = {info.key: info.etag for info in await store.list("")}
            # By whatever names it.
            await delete_checkpoint(store, [record.key, record.to_dict(), record][number % 3])
            assert await latest_of(store, TASK_POINTER) == (saved[of_task] if of_task else None)
            assert await latest_of(store, SCOPE_POINTER) == (saved[of_scope] if of_scope else None)
            left = {info.key: info.etag for info in await store.list("")}
            assert {key for key in before.keys() - left.keys() if not key.endswith("/latest")} == all_of(record, before)
            assert left.items() - before.items() <= {(key, left.get(key)) for key in (TASK_POINTER, SCOPE_POINTER)}
            assert await check_whole(store, tmp_path / f"loaded-{name}") == {one.key for one in saved.values()}
            with pytest.raises(CheckpointNotFound, match="has no record"):
                await delete_checkpoint(store, record.key)
        assert await store.list("") == []


@pytest.mark.parametrize(("name", "after"), [("newest", False), ("tar", True), ("their files", True), ("their tar", False)])
async def test_a_failure_at_any_step_leaves_nothing_half_and_a_second_call_finishes(tmp_path: Path, name: str, after: bool) -> None:
    prepared = MemoryObjects()
    saved = await fill(MemoryStore(prepared), tmp_path / "sources")
    record = saved[name]
    if name != "newest":
        # So that both pointers name it.
        for pointer in (TASK_POINTER, SCOPE_POINTER):
            prepared.write(pointer, record.to_json())
    rest = {one.key for one in saved.values()} - {record.key}
    finished: dict[str, bytes] | None = None
    for step in itertools.count(1):
        objects = MemoryObjects(dict(prepared.contents))
        faulty = FaultyStore(MemoryStore(objects), [Fault("*", calls={step}, after=after)])
        interrupted = True
        try:
            await delete_checkpoint(faulty, record.key)
            interrupted = False
        except StoreUnavailable:
            pass
        found = await check_whole(MemoryStore(objects), tmp_path / f"{step}-found")
        assert rest <= found
        with contextlib.nullcontext() if interrupted and found - rest else contextlib.suppress(CheckpointNotFound):
            await delete_checkpoint(MemoryStore(objects), record.to_dict())
        contents = {key: content for key, (content, _) in objects.contents.items()}
        finished = finished or contents
        assert contents == finished
        if not interrupted:
            break
    assert finished is not None and finished.keys() == prepared.contents.keys() - all_of(record, prepared.contents)
    assert step > 15


async def test_a_pointer_that_an_interrupted_deletion_has_lost_is_set_by_the_next_call(tmp_path: Path) -> None:
    store = MemoryStore()
    doomed = await save_whole(store, job_of(tmp_path / "doomed"))
    # It deletes the pointer, which a commit has moved meanwhile, and dies before it sees that.
    late = Fault("delete", key=TASK_POINTER, error=None, gate=anyio.Event())
    dies = Fault("list", key=keys.task_records_prefix(doomed.pathspec), calls={2})

    async def interrupted() -> None:
        with pytest.raises(StoreUnavailable):
            await delete_checkpoint(FaultyStore(store, [late, dies]), doomed.key)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(interrupted)
            await late.reached.wait()
            newest = await save_whole(store, job_of(tmp_path / "newest", version=1))
            assert late.gate is not None
            late.gate.set()
    assert await latest_of(store, TASK_POINTER) is None
    await delete_checkpoint(store, doomed.key)
    assert await latest_of(store, TASK_POINTER) == await latest_of(store, SCOPE_POINTER) == newest
    assert await check_whole(store, tmp_path / "loaded") == {newest.key}


class Shuffled(MemoryStore):
    """Every call comes after others that are under way, or before them, as it happens."""

    chance = random.Random()

    def __init__(self, objects: MemoryObjects) -> None:
        super().__init__(objects)

    async def wait(self) -> None:
        for _ in range(self.chance.randrange(5)):
            await anyio.lowlevel.checkpoint()

    async def put(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
        await self.wait()
        return await super().put(*arguments, **named)  # type: ignore[arg-type]

    async def delete(self, *arguments: object) -> None:  # type: ignore[override]
        await self.wait()
        await super().delete(*arguments)  # type: ignore[arg-type]

    async def head(self, *arguments: object) -> object:  # type: ignore[override]
        await self.wait()
        return await super().head(*arguments)  # type: ignore[arg-type]


async def test_deletions_and_commits_at_once_leave_the_pointers_right() -> None:
    for seed in range(120):
        Shuffled.chance = random.Random(seed)
        store = Shuffled(MemoryObjects())
        records = [record_of(number, now_unix_ns=10**18 + number) for number in range(5)]

        async def save(record: CheckpointRecord, store: Store = store) -> None:
            await commit(store, identity(), record, Manifest(record.key, "files", ()), latest=True)

        for record in records[:4]:
            await save(record)
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                # Of the odd ones, in the end all but what is committed meanwhile.
                doomed = records[:4] if seed % 2 else records[1:4]
                for record in Shuffled.chance.sample(doomed, len(doomed)):
                    group.start_soon(delete_checkpoint, store, record.key)
                if seed % 2:
                    group.start_soon(save, records[4])
        newest = records[4] if seed % 2 else records[0]
        for pointer in (TASK_POINTER, SCOPE_POINTER):
            assert await latest_of(store, pointer) == newest, f"seed {seed}"


async def test_what_is_on_its_way_into_the_store_is_not_touched(tmp_path: Path) -> None:
    objects = MemoryObjects()
    store = MemoryStore(objects)
    record = await save_whole(store, job_of(tmp_path / "source"))
    for key in [key for key in objects.contents if "/artifacts/" not in key]:
        del objects.contents[key]
    before = dict(objects.contents)
    with pytest.raises(CheckpointNotFound, match="not stored yet"):
        await delete_checkpoint(store, record.to_dict())
    assert objects.contents == before


async def test_a_damaged_checkpoint_can_be_deleted_by_what_its_list_tells(tmp_path: Path) -> None:
    objects = MemoryObjects()
    store = MemoryStore(objects)
    older = await save_whole(store, job_of(tmp_path / "older"))
    record = await save_whole(store, job_of(tmp_path / "source", version=1))
    objects.write(keys.record_key(record.key), b"{")
    objects.write(keys.manifest_key(record.key), b"{")
    before = dict(objects.contents)
    with pytest.raises(CheckpointDamaged):
        await delete_checkpoint(store, record.key)
    assert objects.contents == before
    [listed, _] = (await list_task(store, record.pathspec)).records
    await delete_checkpoint(store, listed.to_dict())
    assert set(await found_in(store)) == {older.key} and not all_of(record, objects.contents) & objects.contents.keys()


@pytest.mark.parametrize(
    "change",
    [{"pathspec": "Flow/2/train/2"}, {"pathspec": "Other/1/train/2"}, {"pathspec": "Flow/1/other/2"}, {"pathspec": "../../../.."}],
)
async def test_a_record_that_names_another_task_harms_nobody(tmp_path: Path, change: dict[str, str]) -> None:
    objects = MemoryObjects()
    store = MemoryStore(objects)
    record = await save_whole(store, job_of(tmp_path / "source"))
    objects.write(keys.record_key(record.key), json.dumps({**record.to_dict(), **change}).encode())
    before = dict(objects.contents)
    with pytest.raises(CheckpointDamaged):
        await delete_checkpoint(store, record.key)
    assert objects.contents == before


@pytest.mark.parametrize(
    "reference", ["", "../..", 7, None, {}, {"key": None}, {"key": "mf.checkpoints/x"}, {"type": "checkpoint"}]
)
async def test_what_names_nothing_deletes_nothing(reference: object) -> None:
    store = FaultyStore(MemoryStore())
    with pytest.raises(InvalidArgument):
        await delete_checkpoint(store, reference)
    assert store.calls == []
