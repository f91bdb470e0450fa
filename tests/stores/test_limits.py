"""What slows requests down on purpose: a cap on bandwidth, and a store that asks for fewer at a time."""

from __future__ import annotations

import anyio
import pytest

from ckpt_async.stores.contract import Body
from ckpt_async.stores.limiting import Limiting, fewer, more
from ckpt_async.stores.memory import MemoryStore
from ckpt_async.stores.pacing import Pace
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.words.errors import StoreBusy, StoreError

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


async def test_bytes_pass_at_the_rate_and_nothing_is_saved_up() -> None:
    clock = Clock()
    pace = Pace(1000, clock, clock.sleep)
    assert pace.piece_bytes == 4096 and Pace(10**9).piece_bytes == 1 << 20 and Pace(10**6).piece_bytes == 50_000
    for _ in range(5):
        await pace.take(100)
    assert clock.now_s == pytest.approx(100.4)  # The first goes at once, each later one when its predecessor is paid for.
    clock.now_s += 60
    await pace.take(100)
    await pace.take(100)
    assert clock.now_s == pytest.approx(160.5)


def test_half_as_many_and_slowly_more() -> None:
    assert [fewer(32), fewer(1.5), fewer(1)] == [16, 1, 1]
    allowed = 4.0
    for _ in range(4):
        allowed = more(allowed, 32)
    assert 4.8 < allowed < 5.1
    assert more(31.99, 32) == 32


async def test_a_busy_store_gets_half_as_many_requests_once_for_those_that_were_under_way_together() -> None:
    def busy() -> StoreError:
        return StoreBusy("store an object")

    gate = anyio.Event()
    faulty = FaultyStore(MemoryStore(), [Fault("put", calls=range(1, 9), error=busy, gate=gate)])
    async with Limiting(faulty, 8) as store:
        refused = 0

        async def put(number: int) -> None:
            nonlocal refused
            try:
                await store.put(f"k{number}", Body.of(b"x"))
            except StoreBusy:
                refused += 1

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(put, number)
                while len(faulty.calls) < 8:
                    await anyio.lowlevel.checkpoint()
                gate.set()
            assert refused == 8
            # Four at a time now.
            second = Fault("put", error=None, gate=anyio.Event())
            faulty.faults = [second]
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(put, number)
                await second.reached.wait()
                await anyio.wait_all_tasks_blocked()
                assert len(faulty.calls) == 8 + 4
                assert second.gate is not None
                second.gate.set()
    assert refused == 8 and len(faulty.calls) == 18
