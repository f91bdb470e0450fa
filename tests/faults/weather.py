"""A store that is up or down, and a worker that dies in its calls, as a test wants it at the moment."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ckpt_async.stores.contract import Store
from ckpt_async.testing.crash_plan import WorkerKilled
from ckpt_async.testing.faulty_store import FaultyStore
from ckpt_async.words.errors import StoreUnavailable

T = TypeVar("T")


@dataclass
class Weather:
    """What the store, and the worker that calls it, are like at the moment."""

    down: bool = False
    worker_dies: bool = False
    task_is_dead: bool = False


class WeatherStore(FaultyStore):
    """Answers as the weather lets it. One for each worker, so that a dead task's worker stays dead."""

    def __init__(self, store: Store, weather: Weather) -> None:
        super().__init__(store)
        self._weather = weather

    async def _pass(self, operation: str, keys: Sequence[str], call: Callable[[], Awaitable[T]]) -> T:
        by_worker = threading.current_thread().name == "ckpt-async-worker"
        if by_worker and self._weather.task_is_dead:
            raise WorkerKilled("its task is dead")
        if by_worker and self._weather.worker_dies:
            self._weather.worker_dies = False
            raise WorkerKilled("it is killed")
        if self._weather.down:
            raise StoreUnavailable("reach the store", cause="it is down")
        return await call()
