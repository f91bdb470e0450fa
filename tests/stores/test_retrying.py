"""Repetition, waiting and reporting, on a clock of the test's own."""

from __future__ import annotations

import anyio
import pytest

from ckpt_async.stores.contract import Body
from ckpt_async.stores.limiting import Limiting
from ckpt_async.stores.memory import MemoryStore
from ckpt_async.stores.retrying import Retrying, TroubleReport, backoff_bound_s
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.words.errors import (
    StoreAccessDenied,
    StoreError,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreUnavailable,
)

pytestmark = pytest.mark.anyio


class Time:
    """A clock that waiting moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.waits_s.append(delay_s)
        self.now_s += delay_s


class Told:
    def __init__(self) -> None:
        self.messages: list[tuple[int, StoreError | None]] = []

    def __call__(self, failures: int, error: StoreError | None) -> None:
        self.messages.append((failures, error))

    @property
    def counts(self) -> list[int]:
        return [failures for failures, _ in self.messages]


def retrying(store: FaultyStore, told: Told, time: Time, **more: float) -> Retrying:
    return Retrying(store, on_trouble=told, sleep=time.sleep, clock=time.clock, random_s=lambda longest_s: longest_s, **more)


def test_the_bound_doubles_from_200_ms_to_20_s() -> None:
    assert [backoff_bound_s(failures) for failures in range(1, 10)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20, 20]
    assert backoff_bound_s(10**9) == 20


async def test_a_transient_failure_is_repeated_until_it_is_over() -> None:
    told, time = Told(), Time()
    faulty = FaultyStore(MemoryStore(), [Fault("put", calls=range(1, 6))])
    async with retrying(faulty, told, time) as store:
        info = await store.put("k", Body.of(b"x"))
        assert await store.head("k") == info
    assert time.waits_s == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert told.counts == [1, 0]
    assert isinstance(told.messages[0][1], StoreUnavailable)
    assert told.messages[1] == (0, None)


async def test_the_wait_is_random_by_default() -> None:
    time = Time()
    faulty = FaultyStore(MemoryStore(), [Fault("head", calls=range(1, 8))])
    async with Retrying(faulty, on_trouble=Told(), sleep=time.sleep, clock=time.clock) as store:
        await store.head("k")
    assert len(set(time.waits_s)) == 7
    assert all(wait_s <= backoff_bound_s(number) for number, wait_s in enumerate(time.waits_s, 1))


@pytest.mark.parametrize("kind", [StoreAccessDenied, StoreObjectMissing, StorePreconditionFailed])
async def test_a_permanent_failure_is_passed_on_at_once(kind: type[StoreError]) -> None:
    told, time = Told(), Time()
    faulty = FaultyStore(MemoryStore(), [Fault("put", error=lambda: kind("store"))])
    async with retrying(faulty, told, time) as store:
        with pytest.raises(kind):
            await store.put("k", Body.of(b"x"))
    assert (time.waits_s, told.messages) == ([], [])


async def test_a_refusal_ends_the_trouble() -> None:
    told, time = Told(), Time()
    faults = [Fault("put", calls={1}), Fault("put", error=lambda: StoreAccessDenied("store"))]
    async with retrying(FaultyStore(MemoryStore(), faults), told, time) as store:
        with pytest.raises(StoreAccessDenied):
            await store.put("k", Body.of(b"x"))
    assert told.counts == [1, 0]


async def test_it_gives_up_when_the_time_is_over() -> None:
    told, time = Told(), Time()
    faulty = FaultyStore(MemoryStore(), [Fault("put")])
    async with retrying(faulty, told, time, give_up_after_s=5.0) as store:
        with pytest.raises(StoreUnavailable):
            await store.put("k", Body.of(b"x"))
    # The last wait ends with the time, and one more try follows.
    assert time.waits_s == [0.2, 0.4, 0.8, 1.6, pytest.approx(2.0)]
    assert len(faulty.calls) == 6


async def test_no_slot_is_held_while_backing_off() -> None:
    waiting, go_on = anyio.Event(), anyio.Event()

    async def sleep(delay_s: float) -> None:
        waiting.set()
        await go_on.wait()

    faulty = FaultyStore(MemoryStore(), [Fault("put", calls={1})])
    async with Retrying(Limiting(faulty, 1), on_trouble=Told(), sleep=sleep) as store, anyio.create_task_group() as group:
        group.start_soon(store.put, "k", Body.of(b"x"))
        with anyio.fail_after(10):
            await waiting.wait()
            assert await store.head("k") is None
            go_on.set()


async def test_no_more_than_the_limit_is_under_way() -> None:
    gate = anyio.Event()
    faulty = FaultyStore(MemoryStore(), [Fault("put", error=None, gate=gate)])
    async with Limiting(faulty, 3) as store, anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(store.put, f"k/{number}", Body.of(b"x"))
        await anyio.wait_all_tasks_blocked()
        assert len(faulty.calls) == 3
        gate.set()
    assert len(faulty.calls) == 10


async def test_cancelled_while_backing_off() -> None:
    waiting = anyio.Event()

    async def sleep(delay_s: float) -> None:
        waiting.set()
        await anyio.sleep_forever()

    faulty = FaultyStore(MemoryStore(), [Fault("put")])
    async with Retrying(faulty, on_trouble=Told(), sleep=sleep) as store, anyio.create_task_group() as group:
        group.start_soon(store.put, "k", Body.of(b"x"))
        await waiting.wait()
        group.cancel_scope.cancel()
    assert len(faulty.calls) == 1


async def test_a_lost_answer_of_a_conditional_put_looks_like_a_lost_race() -> None:
    """What the documentation of `Retrying` tells its callers to expect."""
    faulty = FaultyStore(MemoryStore(), [Fault("put", calls={1}, after=True)])
    async with retrying(faulty, Told(), Time()) as store:
        with pytest.raises(StorePreconditionFailed):
            await store.put("k", Body.of(b"mine"), if_absent=True)
        assert await store.get("k") == b"mine"


async def test_a_lost_answer_of_a_plain_put_does_no_harm() -> None:
    faulty = FaultyStore(MemoryStore(), [Fault("put", calls={1}, after=True)])
    async with retrying(faulty, Told(), Time()) as store:
        assert await store.put("k", Body.of(b"mine")) == await store.head("k")


async def test_a_lost_answer_of_a_completion() -> None:
    faulty = FaultyStore(MemoryStore(), [Fault("complete_multipart", calls={1}, after=True)])
    async with retrying(faulty, Told(), Time()) as store:
        upload_id = await store.begin_multipart("m")
        part = await store.put_part("m", upload_id, 1, 0, Body.of(b"all"))
        with pytest.raises(StoreObjectMissing):
            await store.complete_multipart("m", upload_id, [part])
        info = await store.head("m")
        assert info is not None
        assert info.size_bytes == 3


class TestReport:
    error = StoreUnavailable("reach the store")

    def test_a_long_row_is_told_seldom(self) -> None:
        told, time = Told(), Time()
        report = TroubleReport(told, time.clock)
        for _ in range(1000):
            report.failed(self.error)
        report.answered()
        report.answered()
        assert told.counts == [1, 10, 100, 1000, 0]

    def test_after_half_a_minute_of_silence_it_is_told_again(self) -> None:
        told, time = Told(), Time()
        report = TroubleReport(told, time.clock)
        for second in range(0, 100, 20):
            time.now_s = second
            report.failed(self.error)
        assert told.counts == [1, 3, 5]

    def test_a_store_that_answers_every_second_call_is_no_stream_of_messages(self) -> None:
        told, time = Told(), Time()
        report = TroubleReport(told, time.clock)
        for _ in range(1000):
            report.failed(self.error)
            report.answered()
        assert told.counts == [1, 0]
        time.now_s = 31
        report.failed(self.error)
        report.answered()
        assert told.counts == [1, 0, 1, 0]
