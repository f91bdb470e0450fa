"""A store that copies whole objects alone: large ones that have not changed are not sent all the same."""

from __future__ import annotations

import dataclasses
import os
import zlib
from pathlib import Path

import pytest

from ckpt_async.stores.contract import CopySource, Part, StoreTraits
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import make_plan
from ckpt_async.words.errors import StoreRejected, StoreUnavailable
from tests.transfer.parts import PART_BYTES, ListLog, SmallMemory, job_of
from tests.transfer.test_unchanged import FROZEN, ONE_PART, Saves, files_of, named

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_async.transfer.unchanged.COPY_MIN_BYTES", 500)


class WholeMemory(SmallMemory):
    """Copies no ranges."""

    @property
    def traits(self) -> StoreTraits:
        return dataclasses.replace(super().traits, copies="objects")

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        raise AssertionError("it was asked for what it can't do")


class LearningMemory(WholeMemory):
    """Learns that it copies no ranges when it is asked for one."""

    copies = "ranges"

    @property
    def traits(self) -> StoreTraits:
        return dataclasses.replace(super().traits, copies=self.copies)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        self.copies = "objects"
        raise StoreRejected("copy a part", on=key, cause="501")


async def test_a_file_whose_content_has_its_old_name_is_not_even_read(tmp_path: Path) -> None:
    saves = Saves(WholeMemory(), tmp_path)
    await saves.send(named(saves.job(files_of(b"a" * 600))))
    for adapter in (b"b" * 600, b"c" * 600):
        job = named(saves.job(files_of(adapter)))
        gone = (file if "base" not in file.path else dataclasses.replace(file, local_path="/none") for file in job.files)
        result = await saves.send(dataclasses.replace(job, files=tuple(gone)))
        assert result.copied_bytes == len(FROZEN) + len(ONE_PART)
        assert await saves.content(job, result) == files_of(adapter)
    assert saves.told == []


@pytest.mark.parametrize("storage_format", ["files", "tar"])
async def test_what_has_the_same_sums_is_copied_whole_or_not_at_all(tmp_path: Path, storage_format: str) -> None:
    saves = Saves(WholeMemory(), tmp_path, storage_format)
    last_changed = FROZEN[:-1] + b"?"
    copied = []
    for frozen in (FROZEN, FROZEN, FROZEN, last_changed, FROZEN):
        job = saves.job(files_of(b"a" * 600, frozen))
        result = await saves.send(job)
        assert await saves.content(job, result) == files_of(b"a" * 600, frozen)
        copied.append(result.copied_bytes)
    # The first time that the sums are the old ones, the MD5s are computed and kept.
    size_bytes = job.record.size_bytes - (0 if storage_format == "tar" else 1)
    assert copied[:3] == [0, 0, size_bytes]
    assert copied[3] == (0 if storage_format == "tar" else size_bytes - len(FROZEN)) == copied[4]
    assert saves.told == []


async def test_a_store_that_learns_that_it_copies_no_ranges_still_copies_objects(tmp_path: Path) -> None:
    saves = Saves(LearningMemory(), tmp_path)
    copied = []
    for _ in range(3):
        job = named(saves.job(files_of(b"a" * 600)))
        result = await saves.send(job)
        assert await saves.content(job, result) == files_of(b"a" * 600)
        copied.append(result.copied_bytes)
    assert copied[0] == 0 and copied[1] >= len(ONE_PART) and copied[2] >= len(FROZEN) + len(ONE_PART)
    assert saves.told == []


async def test_what_was_deleted_meanwhile_is_sent(tmp_path: Path) -> None:
    saves = Saves(WholeMemory(), tmp_path)
    first = named(saves.job(files_of(b"a" * 600)))
    await saves.send(first)
    await saves.store.delete([f"{first.record.key}/base/frozen"])
    job = named(saves.job(files_of(b"b" * 600)))
    result = await saves.send(job)
    assert result.copied_bytes == len(ONE_PART) and not saves.told
    assert await saves.content(job, result) == files_of(b"b" * 600)


async def test_a_copy_that_fails_is_made_by_the_next_worker(tmp_path: Path) -> None:
    faulty = FaultyStore(WholeMemory())
    saves = Saves(faulty, tmp_path)
    await saves.send(named(saves.job(files_of(b"a" * 600))))
    job, log = named(saves.job(files_of(b"b" * 600))), ListLog()
    faulty.faults.append(Fault("copy", "*/frozen", after=True))
    with pytest.raises(StoreUnavailable):
        await saves.upload(job, log)
    faulty.faults.clear()
    result = await saves.upload(job, log)
    assert await saves.content(job, result) == files_of(b"b" * 600)


async def test_notes_that_end_in_the_middle_of_a_whole_copy_count_for_nothing(tmp_path: Path) -> None:
    """A worker that died while it noted the parts: whatever of them is there, the object is stored anew, and whole."""
    content = os.urandom(3 * PART_BYTES)
    saves = Saves(WholeMemory(), tmp_path)
    job = job_of(tmp_path / "spool", {"large": content})
    plan = make_plan(job.record, job.files, job.directories, saves.store.traits, PART_BYTES)
    log = ListLog()
    notes = UploadNotes(log, plan, saves.store.traits.url)
    notes.stored(0, Part(1, "of a copy", PART_BYTES, zlib.crc32(content[:PART_BYTES])), [], copied=True)
    for _ in range(2):
        again = UploadNotes(log, plan, saves.store.traits.url)
        assert not again.parts and not again.noted_bytes
    result = await saves.upload(job, log)
    assert result.sent_bytes == len(content) and await saves.content(job, result) == {"large": content}
