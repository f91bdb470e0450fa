"""What has not changed is copied inside the store; what has, is sent, however much it looks like what it was."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections import Counter
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import CopySource, Part, Store
from ckpt_async.stores.memory import MemoryObjects
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import make_plan
from ckpt_async.transfer.unchanged import StoredBefore, StoredPart, stored_parts
from ckpt_async.transfer.upload import UploadJob, UploadResult, upload
from ckpt_async.words.errors import StoreAccessDenied, StoreError, StoreRejected, StoreUnavailable
from tests.transfer.parts import PART_BYTES, ListLog, SmallLocal, SmallMemory, job_of

pytestmark = pytest.mark.anyio

FROZEN = os.urandom(4 * PART_BYTES + 7)
ONE_PART = os.urandom(PART_BYTES)
#: What XOR with it does to some bytes leaves their CRC-32 as it was.
SAME_CRC = (0x1DB710641).to_bytes(5, "little")


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_async.transfer.unchanged.COPY_MIN_BYTES", 500)


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return SmallMemory()
    (tmp_path / "store").mkdir()
    return SmallLocal(str(tmp_path / "store"))


def files_of(adapter: bytes, frozen: bytes = FROZEN) -> dict[str, bytes]:
    return {"base/frozen": frozen, "base/one": ONE_PART, "adapter": adapter, "step": b"1"}


def named(job: UploadJob) -> UploadJob:
    """As the guard of linked files would name the contents of what stands in ``base``."""
    files = (
        dataclasses.replace(file, content=f"c{zlib.crc32(file.path.encode())}") if "base" in file.path else file
        for file in job.files
    )
    return dataclasses.replace(job, files=tuple(files))


class Saves:
    """Checkpoints of one task, one after another."""

    def __init__(self, store: Store, folder: Path, storage_format: str = "files") -> None:
        self.told: list[str] = []
        self.before = StoredBefore(self.told.append)
        self.store = store
        self._folder = folder
        self._format = storage_format
        self._version = 0

    def job(self, files: dict[str, bytes]) -> UploadJob:
        self._version += 1
        return job_of(self._folder / f"spool-{self._version}", files, self._format, version=self._version)

    async def upload(self, job: UploadJob, log: ListLog) -> UploadResult:
        return await upload(self.store, job, log, on_progress=lambda _: None, on_plan=lambda _: None, before=self.before)

    async def send(self, job: UploadJob) -> UploadResult:
        result = await self.upload(job, ListLog())
        self.before.remember(job.record, result.stored, result.part_bytes)
        assert result.sent_bytes + result.copied_bytes == job.record.size_bytes
        return result

    async def content(self, job: UploadJob, result: UploadResult) -> dict[str, bytes]:
        found = {}
        for file in result.manifest.files:
            if file.tar_offset >= 0:
                found[file.path] = await self.store.get(job.record.key, offset=file.tar_offset, size_bytes=file.size_bytes)
            else:
                found[file.path] = await self.store.get(f"{job.record.key}/{file.path}")
            assert f"{zlib.crc32(found[file.path]):08x}" == file.digest
        return found


async def test_a_file_whose_content_has_its_old_name_is_not_even_read(store: Store, tmp_path: Path) -> None:
    saves = Saves(store, tmp_path)
    async with store:
        first = named(saves.job(files_of(b"a" * 600)))
        assert (await saves.send(first)).copied_bytes == 0
        for adapter in (b"b" * 600, b"c" * 600):
            job = named(saves.job(files_of(adapter)))
            gone = (file if "base" not in file.path else dataclasses.replace(file, local_path="/none") for file in job.files)
            result = await saves.send(dataclasses.replace(job, files=tuple(gone)))
            assert result.copied_bytes == len(FROZEN) + len(ONE_PART)
            # Each checkpoint is complete by itself.
            await store.delete([info.key for info in await store.list(f"{first.record.key}/")])
            assert await saves.content(job, result) == files_of(adapter)
            first = job


@pytest.mark.parametrize("storage_format", ["files", "tar"])
async def test_what_has_the_same_sums_is_copied_and_the_part_that_differs_is_sent(tmp_path: Path, storage_format: str) -> None:
    saves = Saves(SmallMemory(), tmp_path, storage_format)
    changed = FROZEN[:2500] + bytes(byte ^ other for byte, other in zip(FROZEN[2500:2505], SAME_CRC, strict=True)) + FROZEN[2505:]
    assert zlib.crc32(changed) == zlib.crc32(FROZEN)
    copied = []
    for frozen in (FROZEN, FROZEN, FROZEN, changed, FROZEN):
        job = saves.job(files_of(b"a" * 600, frozen))
        result = await saves.send(job)
        assert await saves.content(job, result) == files_of(b"a" * 600, frozen)
        copied.append(result.copied_bytes)
    # This store's etags are no MD5: the first time that the CRC-32 is the old one, the MD5 is computed and kept. The header of a
    # tar, which comes first, is the same in all of these.
    assert copied[:2] == [0, 0] and copied[2] == saves.job(files_of(b"a" * 600)).record.size_bytes - (
        0 if storage_format == "tar" else 1
    )
    assert copied[3] == copied[2] - PART_BYTES and copied[4] == copied[3], "the CRC-32 of the changed part is the same"
    assert not saves.told


async def test_an_etag_that_is_an_md5_is_believed_and_small_objects_are_not_looked_at(tmp_path: Path) -> None:
    job = job_of(tmp_path / "spool", {"large": b"l" * 600, "small": b"s" * 400})
    plan = make_plan(job.record, job.files, job.directories, SmallMemory().traits)
    notes = UploadNotes(ListLog(), plan, "s3://b")
    for index, size_bytes in enumerate((600, 400)):
        notes.stored(index, Part(1, f'"{index:032x}"', size_bytes, 7), [], complete=True)
    source = CopySource(f"{job.record.key}/large", f'"{0:032x}"', 0, 600, 7)
    assert stored_parts(plan, job.files, notes) == (StoredPart(source, True, f"{0:032x}", ""),)


def refused() -> StoreError:
    return StoreRejected("copy an object", cause="NotImplemented")


@pytest.mark.parametrize("error", [refused, lambda: StoreAccessDenied("copy an object")])
async def test_a_store_that_does_not_copy_is_asked_once_and_told_of(tmp_path: Path, error: object) -> None:
    faulty = FaultyStore(SmallMemory(), [Fault("copy*", error=error)])  # type: ignore[arg-type]
    saves = Saves(faulty, tmp_path)
    for _ in range(3):
        job = named(saves.job(files_of(b"a" * 600)))
        assert await saves.content(job, await saves.send(job)) == files_of(b"a" * 600)
    assert 1 <= sum(call.startswith("copy") for call, _ in faulty.calls) <= 16
    assert [text.startswith("memory:// does not copy what has not changed") for text in saves.told] == [True]


async def test_a_copy_that_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_async.transfer.unchanged.COPY_TIMEOUT_S", 0.05)
    stuck = Fault("copy*", error=None, gate=anyio.Event())
    faulty = FaultyStore(SmallMemory())
    saves = Saves(faulty, tmp_path)
    await saves.send(named(saves.job(files_of(b"a" * 600))))
    faulty.faults.append(stuck)
    job = named(saves.job(files_of(b"b" * 600)))
    assert await saves.content(job, await saves.send(job)) == files_of(b"b" * 600)
    faulty.faults.clear()
    assert len(saves.told) == 1 and (await saves.send(named(saves.job(files_of(b"c" * 600))))).copied_bytes > 0


async def test_what_was_deleted_meanwhile_is_sent(tmp_path: Path) -> None:
    objects = MemoryObjects()
    saves = Saves(SmallMemory(objects), tmp_path)
    first = named(saves.job(files_of(b"a" * 600)))
    await saves.send(first)
    del objects.contents[f"{first.record.key}/base/frozen"]
    job = named(saves.job(files_of(b"b" * 600)))
    result = await saves.send(job)
    assert result.copied_bytes == len(ONE_PART) and not saves.told
    assert await saves.content(job, result) == files_of(b"b" * 600)


async def test_parts_that_do_not_fit_together_are_sent(tmp_path: Path) -> None:
    faulty = FaultyStore(SmallMemory())
    saves = Saves(faulty, tmp_path)
    await saves.send(named(saves.job(files_of(b"a" * 600))))
    faulty.faults.append(Fault("complete_multipart", error=refused, calls={1}))
    job = named(saves.job(files_of(b"b" * 600)))
    result = await saves.upload(job, ListLog())
    assert await saves.content(job, result) == files_of(b"b" * 600)
    assert Counter(call for call, _ in faulty.calls)["copy_part"] == 5, "only the first try copies"


async def test_a_server_that_copies_another_range_is_found_out(tmp_path: Path) -> None:
    class Whole(SmallMemory):
        def _bytes_of(self, source: CopySource) -> bytes:
            info = self._objects.contents[source.key][1]
            return super()._bytes_of(dataclasses.replace(source, offset=0, size_bytes=info.size_bytes))

    saves = Saves(Whole(), tmp_path)
    await saves.send(named(saves.job(files_of(b"a" * 600))))
    job = named(saves.job(files_of(b"b" * 600)))
    result = await saves.upload(job, ListLog())
    assert await saves.content(job, result) == files_of(b"b" * 600)


@pytest.mark.parametrize("after", [False, True])
async def test_what_was_copied_is_noted_like_what_was_sent(store: Store, tmp_path: Path, after: bool) -> None:
    faulty = FaultyStore(store)
    saves = Saves(faulty, tmp_path)
    async with store:
        await saves.send(named(saves.job(files_of(b"a" * 600))))
        job, log = named(saves.job(files_of(b"b" * 600))), ListLog()
        faulty.calls.clear()
        faulty.faults.append(Fault("copy*", calls=range(1, 100, 2), after=after))
        results: list[UploadResult] = []
        while not results:
            with contextlib.suppress(StoreUnavailable):
                results.append(await saves.upload(job, log))
        assert await saves.content(job, results[0]) == files_of(b"b" * 600)
        assert not any(call.startswith("put") and "base" in key for call, key in faulty.calls)
        # What another worker finds done, it does not need to know from before.
        again = Saves(FaultyStore(store), tmp_path)
        assert (await again.upload(job, log)).sent_bytes == 0
        assert isinstance(again.store, FaultyStore) and {call for call, _ in again.store.calls} <= {"list", "head", "settle"}
