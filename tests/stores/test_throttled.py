"""A store that takes so many requests in a second and refuses all others: driven near its rate, and hardly asked in vain. In a time
of the tests' own, in which nothing but the waiting of requests passes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from ckpt_async.stores.contract import Body, ObjectInfo
from ckpt_async.stores.limiting import Limiting
from ckpt_async.stores.memory import MemoryStore
from ckpt_async.stores.request_rate import RequestRate
from ckpt_async.stores.retrying import Retrying
from ckpt_async.words.errors import StoreBusy

pytestmark = pytest.mark.anyio
#: So many steps of the loop let every task come to its next wait.
STEPS = 12


class Time:
    """Passes when all tasks wait for it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._waiting: list[tuple[float, int, anyio.Event]] = []
        self._count = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        event = anyio.Event()
        heapq.heappush(self._waiting, (self.now_s + delay_s, next(self._count), event))
        await event.wait()

    async def run(self) -> None:
        while True:
            for _ in range(STEPS):
                await anyio.lowlevel.checkpoint()
            if self._waiting:
                self.now_s, _, event = heapq.heappop(self._waiting)
                event.set()


class Throttled(MemoryStore):
    """Takes `per_s` puts a second, `burst` of them at once; an answer takes `answer_s`."""

    def __init__(self, time: Time, per_s: float, burst: int, answer_s: float) -> None:
        super().__init__()
        self._time = time
        self._burst = burst
        self.per_s = per_s
        self._answer_s = answer_s
        self._tokens = float(burst)
        self._filled_s = 0.0
        self.taken: list[float] = []
        self.refused: list[float] = []

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        await self._time.sleep(self._answer_s)
        now_s = self._time()
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self.per_s)
        self._filled_s = now_s
        if self._tokens < 1:
            self.refused.append(now_s)
            raise StoreBusy("store an object", cause="SlowDown")
        self._tokens -= 1
        self.taken.append(now_s)
        return await super().put(key, body, if_match=if_match, if_absent=if_absent, durable=durable)


async def put_all(time: Time, bare: Throttled, count: int, at_once: int = 32, *, rate: RequestRate | None = None) -> None:
    chance = random.Random(7)
    limited = Limiting(bare, at_once, rate or RequestRate(time, time.sleep))
    store = Retrying(
        limited, on_trouble=lambda *_: None, sleep=time.sleep, clock=time, random_s=lambda most_s: chance.uniform(0, most_s)
    )
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await store.put(f"k{number}", Body.of(b"x"))

    async with store, anyio.create_task_group() as passing:
        passing.start_soon(time.run)
        async with anyio.create_task_group() as group:
            for _ in range(at_once):
                group.start_soon(work)
        passing.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("per_s", "burst", "answer_s", "count"),
    [(50, 10, 0.01, 800), (50, 100, 0.01, 800), (200, 200, 0.002, 2000), (5, 5, 0.01, 300)],
    ids=["without-burst", "with-burst", "fast", "slow"],
)
async def test_a_store_that_throttles_is_driven_near_its_rate(per_s: float, burst: int, answer_s: float, count: int) -> None:
    """Without a bound on the rate half of all requests would be refused, four of five by the slow one."""
    time = Time()
    store = Throttled(time, per_s, burst, answer_s)
    with anyio.fail_after(60):
        await put_all(time, store, count)
    assert len(store.taken) == count
    # Most of them before anything is known of it.
    assert len(store.refused) < 120 + 0.1 * count
    # Seconds of the test's own time, the same on every machine.
    assert time.now_s < 1.3 * count / per_s + 2


async def test_a_store_that_takes_more_again_gets_more() -> None:
    time = Time()
    store = Throttled(time, 20, 5, 0.01)
    rate = RequestRate(time, time.sleep)
    with anyio.fail_after(60):
        await put_all(time, store, 200, rate=rate)
        assert store.refused
        store.per_s, store._burst, store._tokens = 1000.0, 1000, 1000.0
        began_s, refused = time.now_s, len(store.refused)
        await put_all(time, store, 1000, rate=rate)
    assert rate.per_s is None and len(store.refused) == refused
    assert time.now_s - began_s < 15, "five seconds near the earlier rate, then twice as much with each"


async def test_a_store_that_refuses_at_random_is_not_asked_less_for_it() -> None:
    class Moody(Throttled):
        async def put(self, key: str, body: Body, **more: Any) -> ObjectInfo:
            if (len(self.taken) + len(self.refused)) % 50 == 49:
                self.refused.append(self._time())
                raise StoreBusy("store an object")
            return await super().put(key, body, **more)

    time = Time()
    rate = RequestRate(time, time.sleep)
    store = Moody(time, 1e9, 10**9, 0.05)
    with anyio.fail_after(60):
        await put_all(time, store, 1000, rate=rate)
    assert rate.per_s is None and len(store.refused) >= 20


async def test_a_hiccup_of_a_store_that_is_hardly_asked_bounds_nothing() -> None:
    time = Time()
    rate = RequestRate(time, time.sleep)
    for _ in range(5):
        rate.answered()
    rate.refused()
    assert rate.per_s is None
    # Many in the middle of much work do so, for seconds.
    for _ in range(100):
        rate.answered()
    for _ in range(20):
        rate.refused()
    assert rate.per_s is not None and rate.per_s > 300
    time.now_s += 10
    assert rate.per_s is None
