"""A store that repeats what failed for a reason that passes."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TypeVar

import anyio

from ckpt_async.stores.contract import Body, CopySource, ListPage, ObjectInfo, Part, Store, StoreTraits, Uploads
from ckpt_async.words.errors import StoreError, StoreUnavailable

__all__ = ["Retrying", "TroubleReport", "backoff_bound_s"]

FIRST_BACKOFF_S = 0.2
LAST_BACKOFF_S = 20.0
REPORT_EVERY_S = 30.0

T = TypeVar("T")


def backoff_bound_s(failures: int) -> float:
    """Return the longest wait, in seconds, after that many failures of one call: doubling from 0.2 to 20."""
    # The exponent is bounded too: a store may be away for days.
    return min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16))


def _full_jitter_s(longest_s: float) -> float:
    # Calls that failed together must not come back together. No secret depends on it.
    return random.uniform(0.0, longest_s)  # noqa: S311


class TroubleReport:
    """Decides which failures are worth telling; all calls of one store share it.

    Told are the first failure of a row, the 10th, the 100th and so on, one after 30 seconds of silence, and the end of a row
    that was told of. A row that begins within 30 seconds after the last one was told waits for its turn, so that a store that
    answers every second call is no stream of messages.

    Parameters
    ----------
    tell : callable
        Called with the failures in a row and the last error; with ``(0, None)`` when the store works again.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, tell: Callable[[int, StoreError | None], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._failures = 0
        self._next_count = 1
        self._told = False
        self._told_at_s = float("-inf")

    def failed(self, error: StoreError) -> None:
        """Note a failure."""
        self._failures += 1
        silence_s = self._clock() - self._told_at_s
        due = silence_s >= REPORT_EVERY_S
        if self._failures >= self._next_count:
            due = due or self._failures > 1
            self._next_count *= 10
        if due:
            self._told = True
            self._told_at_s = self._clock()
            self._tell(self._failures, error)

    def answered(self) -> None:
        """Note that the store gave an answer, be it a refusal."""
        if self._failures == 0:
            return
        self._failures, self._next_count = 0, 1
        if self._told:
            self._told = False
            self._tell(0, None)


class Retrying(Store):
    """Repeat a call that raises `StoreUnavailable`, waiting longer each time (a random time of up to 0.2 s, doubling to 20 s).

    Everything else is passed on: it would fail again.

    Two calls can succeed in the store while their answer is lost on the way. Their repetition then meets the new state, and
    this wrapper can't know whether it was this call that made it:

    - a conditional `put` raises `StorePreconditionFailed`: read the object and compare it with what was to be written;
    - `complete_multipart` raises `StoreObjectMissing`: look at the object and compare its size (or its content).

    Parameters
    ----------
    store : Store
        What answers; entered and left together with this one.
    on_trouble : callable
        Called with the failures in a row and the last error, seldom (see `TroubleReport`), and with ``(0, None)`` once the
        store works again. Must not block.
    give_up_after_s : float, optional
        How long one call is repeated before its last error is raised; None: without end, the caller bounds it.
    sleep, clock, random_s : callable
        For tests: waiting, monotonic seconds, and the choice of a wait of at most so many seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_trouble: Callable[[int, StoreError | None], None],
        give_up_after_s: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
        random_s: Callable[[float], float] = _full_jitter_s,
    ) -> None:
        self._store = store
        self._report = TroubleReport(on_trouble, clock)
        self._give_up_after_s = give_up_after_s
        self._sleep = sleep
        self._clock = clock
        self._random_s = random_s

    @property
    def traits(self) -> StoreTraits:
        return self._store.traits

    async def __aenter__(self) -> Retrying:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def _repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        began_s = self._clock()
        failures = 0
        while True:
            try:
                result = await call()
            except StoreUnavailable as error:
                failures += 1
                self._report.failed(error)
                wait_s = self._random_s(backoff_bound_s(failures))
                if self._give_up_after_s is not None:
                    left_s = began_s + self._give_up_after_s - self._clock()
                    if left_s <= 0:
                        raise
                    wait_s = min(wait_s, left_s)
            except StoreError:
                # A refusal: the store is there.
                self._report.answered()
                raise
            else:
                self._report.answered()
                return result
            await self._sleep(wait_s)

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        return await self._repeat(lambda: self._store.put(key, body, if_match=if_match, if_absent=if_absent, durable=durable))

    async def settle(self, keys: Sequence[str]) -> None:
        # Not repeated: a disk that has failed to keep something says so once.
        await self._store.settle(keys)

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        return await self._repeat(lambda: self._store.copy(key, source))

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        return await self._repeat(lambda: self._store.get(key, offset=offset, size_bytes=size_bytes, if_match=if_match))

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        return await self._repeat(lambda: self._store.get_into(key, buffer, offset=offset))

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._repeat(lambda: self._store.head(key))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        return await self._repeat(lambda: self._store.list(prefix))

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        return await self._repeat(lambda: self._store.list_page(prefix, token))

    async def list_multipart(self, prefix: str) -> Uploads:
        return await self._repeat(lambda: self._store.list_multipart(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._repeat(lambda: self._store.delete(keys))

    async def begin_multipart(self, key: str) -> str:
        return await self._repeat(lambda: self._store.begin_multipart(key))

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        return await self._repeat(lambda: self._store.put_part(key, upload_id, number, offset, body))

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        return await self._repeat(lambda: self._store.copy_part(key, upload_id, number, offset, source))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        return await self._repeat(lambda: self._store.complete_multipart(key, upload_id, parts))

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        await self._repeat(lambda: self._store.abort_multipart(key, upload_id))
