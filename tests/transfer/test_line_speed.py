"""Parts and bytes under way follow the line; an upload that was begun keeps its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_async.stores.contract import StoreTraits
from ckpt_async.stores.memory import TRAITS, MemoryObjects, MemoryStore
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.line_speed import LineSpeed, most_bytes_for, part_bytes_for, window_bytes_for
from ckpt_async.transfer.notes import unfinished_uploads
from ckpt_async.transfer.upload import upload
from ckpt_async.words.errors import StoreAccessDenied, StoreError, StoreUnavailable
from tests.transfer.parts import FILES, ListLog, SmallMemory, job_of, send

MIB = 1 << 20


@pytest.mark.parametrize(
    ("bytes_per_s", "part_bytes", "window_bytes"),
    [
        (None, 16 * MIB, 32 * MIB),
        (1000, 5 * MIB, 20_000),
        (MIB, 5 * MIB, 20 * MIB),
        (2 * MIB, 10 * MIB, 40 * MIB),
        (10**9, 16 * MIB, 64 * MIB),
    ],
)
def test_what_follows_from_the_speed(bytes_per_s: float | None, part_bytes: int, window_bytes: int) -> None:
    assert part_bytes_for(bytes_per_s) == part_bytes
    assert window_bytes_for(bytes_per_s, 64 * MIB) == window_bytes


def test_large_parts_are_not_sent_one_by_one() -> None:
    """An object above 150 GB has larger parts, since a store takes 10,000 of them."""
    usual = 64 * MIB
    assert [most_bytes_for(part * MIB, usual) // MIB for part in (5, 16, 17, 106, 200, 600)] == [64, 64, 68, 424, 512, 512]


def test_the_time_between_uploads_does_not_count() -> None:
    now_s = [0.0]
    speed = LineSpeed(lambda: now_s[0])
    speed.begin()
    now_s[0] = 0.5
    speed.acknowledged(100)
    assert speed.bytes_per_s is None
    now_s[0] = 2.0
    speed.acknowledged(100)
    assert speed.bytes_per_s == 100
    now_s[0] = 1000.0
    speed.begin()
    now_s[0] = 1001.0
    speed.acknowledged(300)
    assert speed.bytes_per_s == 200


def test_one_part_tells_that_a_line_is_fast() -> None:
    now_s = [0.0]
    speed = LineSpeed(lambda: now_s[0])
    speed.begin()
    now_s[0] = 0.25
    speed.acknowledged(16 * MIB)
    assert speed.bytes_per_s == 64 * MIB


class ManyParts(MemoryStore):
    """No bounds: the plan's own size of parts counts."""

    @property
    def traits(self) -> StoreTraits:
        return TRAITS


@pytest.mark.anyio
async def test_an_upload_that_was_begun_keeps_its_parts_whatever_the_line_gives_later(tmp_path: Path) -> None:
    job = job_of(tmp_path / "spool", {"big": bytes(21 * MIB)})
    log, objects = ListLog(), MemoryObjects()
    slow = LineSpeed()
    slow.bytes_per_s = 1.0
    failing = FaultyStore(ManyParts(objects), [Fault("complete_multipart", error=lambda: StoreAccessDenied("join"))])
    with pytest.raises(StoreAccessDenied):
        await upload(failing, job, log, on_progress=lambda _: None, on_plan=lambda _: None, speed=slow)
    [(key, _)] = unfinished_uploads(log.read(), "memory://")
    assert key == f"{job.record.key}/big" and unfinished_uploads(log.read(), "memory://another") == []
    fast = LineSpeed()
    fast.bytes_per_s = 1e12
    result = await upload(ManyParts(objects), job, log, on_progress=lambda _: None, on_plan=lambda _: None, speed=fast)
    assert result.sent_bytes == 0 and len(objects.contents) == 1
    assert unfinished_uploads(log.read(), "memory://") == []


@pytest.mark.anyio
async def test_what_may_not_have_reached_the_disk_is_sent_once_more(tmp_path: Path) -> None:
    def lost() -> StoreError:
        return StoreUnavailable("bring objects to the disk itself")

    job = job_of(tmp_path / "spool")
    log, objects = ListLog(), MemoryObjects()
    faulty = FaultyStore(SmallMemory(objects), [Fault("settle", calls={1}, error=lost)])
    with pytest.raises(StoreUnavailable):
        await send(faulty, job, log)
    assert (await send(faulty, job, log)).sent_bytes == sum(map(len, FILES.values()))
    assert (await send(faulty, job, log)).sent_bytes == 0
