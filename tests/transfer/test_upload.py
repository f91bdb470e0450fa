from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from pathlib import Path

import anyio
import pytest

from ckpt_async.spool.part_log import PartLog
from ckpt_async.stores.contract import Body, Part, Store, StoreTraits
from ckpt_async.stores.memory import MemoryObjects
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.upload import UploadJob, upload
from ckpt_async.words.errors import StoreAccessDenied, StoreError, StoreObjectMissing, StoreUnavailable
from tests.transfer.parts import DIRECTORIES, FILES, PART_BYTES, ListLog, SmallLocal, SmallMemory, job_of, send

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


def denied() -> StoreError:
    return StoreAccessDenied("store an object")


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return SmallMemory()
    (tmp_path / "store").mkdir()
    return SmallLocal(str(tmp_path / "store"))


@pytest.fixture(params=["files", "tar"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> UploadJob:
    return job_of(tmp_path / "spool", storage_format=request.param)


async def stored(store: Store, job: UploadJob) -> dict[str, bytes]:
    """The files as they lie in the store, by way of the manifest."""
    manifest = (await send(store, job)).manifest
    found = {}
    for file in manifest.files:
        if file.tar_offset >= 0:
            found[file.path] = await store.get(job.record.key, offset=file.tar_offset, size_bytes=file.size_bytes)
        else:
            found[file.path] = await store.get(f"{job.record.key}/{file.path}")
    return found


async def test_everything_arrives_with_digests_sizes_and_folders(store: Store, job: UploadJob) -> None:
    told: list[int] = []
    async with store:
        with anyio.fail_after(DEADLINE_S):
            result = await upload(store, job, ListLog(), on_progress=told.append, on_plan=told.append)
        assert await stored(store, job) == FILES
        listed = await store.list("")
    manifest = result.manifest
    assert {file.path: file.digest for file in manifest.files} == {path: f"{zlib.crc32(text):08x}" for path, text in FILES.items()}
    assert manifest.directories == DIRECTORIES and manifest.key == job.record.key
    assert {(file.mode, file.mtime_ns) for file in manifest.files} == {(0o640, 1_600_000_000_123_456_789)}
    assert told[0] == told[-1] == max(told) == result.sent_bytes == sum(info.size_bytes for info in listed) == job.record.size_bytes


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_anywhere_is_repeated_without_sending_a_noted_part_again(store: Store, job: UploadJob, after: bool) -> None:
    log = ListLog()
    async with store:
        for operation in ("begin_multipart", "put", "put_part", "complete_multipart"):
            for call in range(1, 4):
                faulty = FaultyStore(store, [Fault(operation, calls={call}, after=after)])
                try:
                    await send(faulty, job, log)
                except StoreUnavailable:
                    continue
        noted = Counter((note["object"], note["part"][0]) for note in log.read() if "part" in note)
        assert max(noted.values()) == 1
        last = FaultyStore(store)
        with anyio.fail_after(DEADLINE_S):
            result = await send(last, job, log)
        assert await stored(store, job) == FILES
    assert result.manifest.files


async def test_a_cancelled_upload_goes_on_where_it_was(store: Store, job: UploadJob) -> None:
    log = ListLog()
    operations = ("put", "put_part")
    async with store:
        gates = [Fault(operation, calls=range(4, 10_000), error=None, gate=anyio.Event()) for operation in operations]
        slow = FaultyStore(store, gates)
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(send, slow, job, log)
                await gates[1].reached.wait()
                group.cancel_scope.cancel()
        noted = {(note["object"], note["part"][0]) for note in log.read() if "part" in note}
        assert noted
        second = FaultyStore(store)
        result = await send(second, job, log)
        calls = Counter(call for call, _ in second.calls)
        parts = Counter((note["object"], note["part"][0]) for note in log.read() if "part" in note)
        assert set(parts.values()) == {1}
        assert calls["put"] + calls["put_part"] == len(parts) - len(noted)
        assert 0 < result.sent_bytes < job.record.size_bytes
        third = FaultyStore(store)
        assert (await send(third, job, log)).sent_bytes == 0
        # One look at whether it is still there.
        assert [call for call, _ in third.calls] in (["list", "settle"], ["head", "settle"])
        assert (await send(third, job, log)).manifest == result.manifest
        assert await stored(store, job) == FILES


async def test_what_was_deleted_after_it_was_noted_is_sent_again(store: Store, job: UploadJob) -> None:
    log = ListLog()
    async with store:
        await send(store, job, log)
        keys = [info.key for info in await store.list("")]
        for gone in (keys[:1], keys):
            await store.delete(gone)
            assert (await send(store, job, log)).sent_bytes > 0
            assert await stored(store, job) == FILES
        assert (await send(store, job, log)).sent_bytes == 0


async def test_an_upload_that_vanished_from_the_store_is_begun_anew(job: UploadJob) -> None:
    objects = MemoryObjects()
    log = ListLog()
    failing = FaultyStore(SmallMemory(objects), [Fault("put_part", calls=range(3, 99), error=denied)])
    with pytest.raises(StoreAccessDenied):
        await send(failing, job, log)
    assert objects.uploads
    objects.uploads.clear()
    store = SmallMemory(objects)
    await send(store, job, log)
    assert not objects.uploads
    assert await stored(store, job) == FILES


async def test_an_upload_that_always_vanishes_ends_with_an_error(job: UploadJob) -> None:
    def gone() -> StoreError:
        return StoreObjectMissing("store a part")

    with anyio.fail_after(DEADLINE_S):
        with pytest.raises(StoreObjectMissing):
            await send(FaultyStore(SmallMemory(), [Fault("put_part", error=gone)]), job)


async def test_an_upload_whose_joining_was_not_noted_is_not_repeated(job: UploadJob) -> None:
    objects = MemoryObjects()
    log = ListLog()
    await send(SmallMemory(objects), job, log)
    lines = [line for line in log.lines if "part" in line or "upload" in line or "plan" in line]
    assert len(lines) < len(log.lines)
    log.lines = lines
    again = FaultyStore(SmallMemory(objects))
    assert (await send(again, job, log)).sent_bytes == 0
    assert {call for call, _ in again.calls} - {"list"} == {"complete_multipart", "head", "settle"}


async def test_a_changed_part_size_begins_anew_and_frees_the_old_parts(tmp_path: Path) -> None:
    job = job_of(tmp_path / "spool", {"big": b"x" * (5 * PART_BYTES)})
    objects = MemoryObjects()
    log = ListLog()
    with pytest.raises(StoreAccessDenied):
        await send(FaultyStore(SmallMemory(objects), [Fault("complete_multipart", error=denied)]), job, log)

    class Smaller(SmallMemory):
        @property
        def traits(self) -> StoreTraits:
            return dataclasses.replace(super().traits, max_part_bytes=700)

    assert (await send(Smaller(objects), job, log)).sent_bytes == 5 * PART_BYTES
    assert not objects.uploads


async def test_with_the_log_of_the_spool_cut_at_any_line_nothing_is_lost(tmp_path: Path) -> None:
    job = job_of(tmp_path / "spool", storage_format="tar")
    objects = MemoryObjects()
    log = PartLog(str(tmp_path))
    await upload(SmallMemory(objects), job, log, on_progress=lambda _: None, on_plan=lambda _: None)
    log.close()
    lines = (tmp_path / "parts.log").read_bytes().splitlines(keepends=True)
    for keep in range(len(lines) + 1):
        (tmp_path / "parts.log").write_bytes(b"".join(lines[:keep]) + b'{"obj')
        copy = MemoryObjects()
        if keep == len(lines):
            copy = objects
        later = PartLog(str(tmp_path))
        await upload(SmallMemory(copy), job, later, on_progress=lambda _: None, on_plan=lambda _: None)
        later.close()
        assert job.record.key in copy.contents and not copy.uploads


async def test_memory_is_bounded_whatever_the_store_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget_bytes = 5 * PART_BYTES
    monkeypatch.setattr("ckpt_async.transfer.upload.BUDGET_BYTES", budget_bytes)
    job = job_of(tmp_path / "spool", {f"f{index}": b"x" * 9 * PART_BYTES for index in range(8)})
    held = most = 0

    class Counting(SmallMemory):
        async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
            nonlocal held, most
            held += body.size_bytes
            most = max(most, held)
            try:
                return await super().put_part(key, upload_id, number, offset, body)
            finally:
                held -= body.size_bytes

    await send(Counting(), job)
    assert PART_BYTES <= most <= budget_bytes


async def test_parts_that_must_be_large_go_several_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_async.transfer.upload.BUDGET_BYTES", PART_BYTES)
    monkeypatch.setattr("ckpt_async.transfer.upload.SMALL_BYTES", 0)
    monkeypatch.setattr("ckpt_async.transfer.line_speed.PART_BYTES", PART_BYTES - 1)
    job = job_of(tmp_path / "spool", {"large": b"x" * 9 * PART_BYTES})
    under_way: set[int] = set()
    four = anyio.Event()

    class Waiting(SmallMemory):
        async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
            under_way.add(number)
            assert len(under_way) <= 4
            if len(under_way) == 4:
                four.set()
            await four.wait()
            under_way.discard(number)
            return await super().put_part(key, upload_id, number, offset, body)

    with anyio.fail_after(30):
        await send(Waiting(), job)


async def test_nothing_to_send_is_fine(store: Store, tmp_path: Path) -> None:
    async with store:
        for storage_format in ("files", "tar"):
            result = await send(store, job_of(tmp_path / storage_format, {}, storage_format))
            assert result.manifest.files == () and result.manifest.directories == DIRECTORIES
