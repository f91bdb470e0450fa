from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import resource
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from ckpt_async.reader import Reader
from ckpt_async.stores.contract import Body
from ckpt_async.stores.memory import MemoryObjects
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer import ranges as module
from ckpt_async.transfer.download import download
from ckpt_async.transfer.partial import PARTIAL_PREFIX
from ckpt_async.words.errors import CheckpointDamaged, LoadTargetNotEmpty, SnapshotFailed, StoreUnavailable
from ckpt_async.words.records import CheckpointRecord
from tests.conftest import Unblocked
from tests.transfer.parts import DIRECTORIES, FILES, SmallLocal, SmallMemory, content_of, job_of, save_whole

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def store(objects: MemoryObjects) -> SmallMemory:
    return SmallMemory(objects)


@pytest.fixture(params=["files", "tar"])
def storage_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RANGE_BYTES", 700)


def untouched(target: Path) -> bool:
    """Nothing has appeared, nothing is left."""
    return not target.exists() or list(target.iterdir()) == []


def test_a_reader_keeps_to_the_memory_that_it_was_given(objects: MemoryObjects, tmp_path: Path) -> None:
    files = {f"{number}": b"x" * 1000 for number in range(12)}
    record = anyio.run(save_whole, SmallMemory(objects), job_of(tmp_path / "spool", files))
    under_way: set[str] = set()
    three = anyio.Event()

    class Waiting(SmallMemory):
        async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
            if "/artifacts/" in key:
                under_way.add(key)
                assert len(under_way) <= 3
                if len(under_way) == 3:
                    three.set()
                with anyio.fail_after(DEADLINE_S):
                    await three.wait()
                under_way.discard(key)
            return await super().get(key, offset=offset, size_bytes=size_bytes, if_match=if_match)

    with Reader(lambda _: Waiting(objects), print, memory_bytes=3000).held_open() as reader:
        reader.load(record.key, str(tmp_path / "one"))
        reader.load_record(record, str(tmp_path / "other"))
    assert content_of(tmp_path / "one") == content_of(tmp_path / "other") == files


@pytest.mark.usefixtures("small_ranges")
async def test_what_was_saved_comes_back(store: SmallMemory, tmp_path: Path, storage_format: str) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool", storage_format=storage_format))
    target = tmp_path / "new" / "target"
    await download(store, record, str(target))
    assert content_of(target) == FILES
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_dir()) == sorted(DIRECTORIES)
    for path in FILES:
        found = (target / path).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o640, 1_600_000_000_123_456_789)


async def test_what_is_loaded_is_the_users_own(tmp_path: Path, storage_format: str) -> None:
    (tmp_path / "store").mkdir()
    async with SmallLocal(str(tmp_path / "store")) as store:
        record = await save_whole(store, job_of(tmp_path / "spool", storage_format=storage_format))
        before = content_of(tmp_path / "store")
        await download(store, record, str(tmp_path / "target"))
        for path in FILES:
            assert not (tmp_path / "target" / path).is_symlink()
            (tmp_path / "target" / path).write_bytes(b"overwritten by the training")
        assert content_of(tmp_path / "store") == before
        await download(store, record, str(tmp_path / "again"))
    assert content_of(tmp_path / "again") == FILES


def data_keys(objects: MemoryObjects, record: CheckpointRecord) -> list[str]:
    return [key for key, (text, _) in objects.contents.items() if key.startswith(record.key) and text]


def flip(text: bytes) -> bytes:
    # Inside the content: a tar has headers and padding, which no digest is about.
    position = text.index(b"ssssssssss") + 3 if b"ssssssssss" in text else len(text) // 2
    return text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda text: None,
    "emptied": lambda text: b"",
    "one bit": flip,
    "other content": lambda text: bytes(len(text)),
    "cut off": lambda text: text[: len(text) // 3],
}


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_data_is_named_and_nothing_appears(
    store: SmallMemory, objects: MemoryObjects, tmp_path: Path, storage_format: str, damage: str
) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool", storage_format=storage_format))
    kept = dict(objects.contents)
    for key in data_keys(objects, record):
        objects.contents = dict(kept)
        changed = DAMAGES[damage](kept[key][0])
        if changed is None:
            del objects.contents[key]
        else:
            objects.write(key, changed)
        target = tmp_path / "target"
        with pytest.raises(CheckpointDamaged) as caught:
            await download(store, record, str(target))
        assert caught.value.on == record.key
        if storage_format == "files":
            assert repr(key.removeprefix(record.key + "/")) in caught.value.cause
        assert untouched(target)


def sealed(manifest: bytes, **changes: Any) -> bytes:
    body = {**json.loads(manifest)["manifest"], **changes}
    return json.dumps({"manifest": body, "crc32": f"{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}"}).encode()


def row(path: str, size_bytes: int = 1, offset: int = -1, mtime_ns: int = 0) -> list[object]:
    return [path, size_bytes, "00000000", 0o644, mtime_ns, offset]


async def test_a_missing_damaged_or_hostile_manifest_is_damage(store: SmallMemory, objects: MemoryObjects, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))
    good = objects.contents[record.manifest][0]
    hostile: list[bytes | None] = [
        None,
        b"",
        good[:-1],
        flip(good),
        sealed(good, key="another"),
        sealed(good, algorithm="md5"),
        sealed(good, files=[row("../outside")]),
        sealed(good, files=[row("/outside-of-it")]),
        sealed(good, files=[row("a"), row("a")]),
        sealed(good, files=[row("a"), row("a/b")]),
        sealed(good, directories=["../outside"]),
        sealed(good, directories=["small"]),
        sealed(good, files=[row("small", 2**62)]),
        sealed(good, files=[row("small", 10, 2**62)]),
        sealed(good, files=[row("small", 10, -7)]),
        sealed(good, files=[row("small", 10)]),
        sealed(good, files=[row("small", 10, mtime_ns=2**80)]),
    ]
    for text in hostile:
        if text is None:
            del objects.contents[record.manifest]
        else:
            objects.write(record.manifest, text)
        with pytest.raises(CheckpointDamaged), anyio.fail_after(DEADLINE_S):
            await download(store, record, str(tmp_path / "target"))
        assert untouched(tmp_path / "target")
    assert sorted(os.listdir(tmp_path)) == ["spool", "target"]


async def test_an_archive_is_not_unpacked_into_more_than_it_has(store: SmallMemory, objects: MemoryObjects, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool", storage_format="tar"))
    again = [row(f"copy-{number}", 1000, 512) for number in range(100)]
    objects.write(record.manifest, sealed(objects.contents[record.manifest][0], files=again))
    with pytest.raises(CheckpointDamaged, match="100,000 bytes"):
        await download(store, record, str(tmp_path / "target"))
    assert untouched(tmp_path / "target")


async def test_a_target_that_holds_something_is_left_alone(store: SmallMemory, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("precious")
    with pytest.raises(LoadTargetNotEmpty, match="'mine'"):
        await download(store, record, str(target))
    with pytest.raises(LoadTargetNotEmpty, match="not a folder"):
        await download(store, record, str(target / "mine"))
    with pytest.raises(LoadTargetNotEmpty):
        await download(store, record, str(target / "mine" / "below"))
    assert content_of(target) == {"mine": b"precious"}


async def test_a_file_that_comes_into_the_target_meanwhile_is_not_replaced(store: SmallMemory, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))
    gate = Fault("get", f"{record.key}/small", error=None, gate=anyio.Event())
    target = tmp_path / "target"

    async def meanwhile() -> None:
        await gate.reached.wait()
        (target / "small").write_text("precious")
        assert gate.gate is not None
        gate.gate.set()

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(meanwhile)
            with pytest.raises(LoadTargetNotEmpty):
                await download(FaultyStore(store, [gate]), record, str(target))
    assert content_of(target) == {"small": b"precious"} and os.listdir(target) == ["small"]


@pytest.mark.usefixtures("small_ranges")
async def test_a_store_that_fails_or_a_load_that_is_cancelled_leaves_nothing(store: SmallMemory, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))
    target = tmp_path / "target"
    for call in (1, 2, 5):
        with pytest.raises(StoreUnavailable):
            await download(FaultyStore(store, [Fault("get", calls={call})]), record, str(target))
        assert untouched(target)
        gate = Fault("get", calls={call}, error=None, gate=anyio.Event())
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(download, FaultyStore(store, [gate]), record, str(target))
                await gate.reached.wait()
                group.cancel_scope.cancel()
        assert untouched(target)
    await download(store, record, str(target))
    assert content_of(target) == FILES


async def test_a_full_disk_says_so_and_leaves_nothing(store: SmallMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))

    def full(descriptor: int, content: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(SnapshotFailed, match=r"No space left.*Free disk space"):
            await download(store, record, str(tmp_path / "target"))
    assert untouched(tmp_path / "target")


async def test_a_move_that_fails_halfway_is_taken_back(store: SmallMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))
    rename = os.rename

    def broken(source: str, target: str) -> None:
        if source.endswith("/small") and PARTIAL_PREFIX in source:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(SnapshotFailed, match="Input/output"):
        await download(store, record, str(tmp_path / "target"))
    assert untouched(tmp_path / "target")


async def test_what_a_killed_load_left_is_deleted_and_what_lives_is_not(store: SmallMemory, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool"))
    target = tmp_path / "target"
    for name in ("dead", "alive"):
        (target / f"{PARTIAL_PREFIX}{name}").mkdir(parents=True)
        (target / f"{PARTIAL_PREFIX}{name}" / "half").write_text("x")
    alive = os.open(target / f"{PARTIAL_PREFIX}alive", os.O_RDONLY)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        await download(store, record, str(target))
    finally:
        os.close(alive)
    assert [name for name in os.listdir(target) if name.startswith(PARTIAL_PREFIX)] == [f"{PARTIAL_PREFIX}alive"]
    assert (target / f"{PARTIAL_PREFIX}alive" / "half").exists()


async def test_many_small_files_neither_block_the_loop_nor_fill_the_memory(
    store: SmallMemory, tmp_path: Path, unblocked: Unblocked
) -> None:
    # Each of another length: joining their sums one by one took 0.2 ms of the loop for each.
    files = {f"d{number % 7}/{number:05d}": b"x" * number for number in range(700)}
    job = await anyio.to_thread.run_sync(job_of, tmp_path / "spool", files)

    async def save_and_load(number: int) -> None:
        record = await save_whole(store, job)
        await download(store, record, str(tmp_path / f"target-{number}"))
        assert len(await anyio.to_thread.run_sync(content_of, tmp_path / f"target-{number}")) == 700

    await unblocked(save_and_load)


async def test_descriptors_are_few_whatever_the_number_of_files(store: SmallMemory, tmp_path: Path) -> None:
    record = await save_whole(store, job_of(tmp_path / "spool", {f"{number}": b"x" for number in range(300)}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 128), hard))
    try:
        await download(store, record, str(tmp_path / "target"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(content_of(tmp_path / "target")) == 300


async def test_a_record_without_its_manifests_key_is_not_ours_and_sizes_still_count(
    store: SmallMemory, objects: MemoryObjects, tmp_path: Path
) -> None:
    record = dataclasses.replace(await save_whole(store, job_of(tmp_path / "spool")), manifest="")
    await store.put(f"{record.key}/more", Body.of(b"x"))
    with pytest.raises(CheckpointDamaged, match="bytes together"):
        await download(store, record, str(tmp_path / "target"))
    assert untouched(tmp_path / "target")
