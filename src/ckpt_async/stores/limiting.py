"""A store with a bound on the requests that are under way at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType

from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import Body, CopySource, ListPage, ObjectInfo, Part, Store, StoreTraits, Uploads
from ckpt_async.stores.request_rate import RequestRate
from ckpt_async.words.errors import StoreBusy

__all__ = ["Limiting", "fewer", "more"]


def fewer(allowed: float) -> float:
    """Return how many requests at once a store gets after it was too busy for so many."""
    return max(1.0, allowed / 2)


def more(allowed: float, most: int) -> float:
    """Return how many it gets after it has answered one: one more for each round of so many."""
    return min(float(most), allowed + 1 / allowed)


class Limiting(Store):
    """Pass on at most `requests_at_once` calls at a time; the others wait for their turn, in order.

    A store that is too busy (`StoreBusy`) gets half as many at a time, and then, as long as it answers, slowly more again. One that
    bounds how many it takes in a second is sent no more than that (`RequestRate`).

    It belongs below `Retrying`: a call that backs off then holds no turn.

    Parameters
    ----------
    store : Store
        What answers; entered and left together with this one.
    requests_at_once : int
        1 or more.
    rate : RequestRate, optional
        Of the store; a new one if left out.
    """

    def __init__(self, store: Store, requests_at_once: int, rate: RequestRate | None = None) -> None:
        if requests_at_once < 1:
            raise ValueError("requests_at_once must be 1 or more")
        self._store = store
        self._most = requests_at_once
        self._allowed = float(requests_at_once)
        self._turns = Budget(requests_at_once)
        self._rate = rate or RequestRate()
        #: How often the number was halved.
        self._halvings = 0

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._turns.hold(1):
            await self._rate.turn()
            halvings = self._halvings
            try:
                yield
            except StoreBusy:
                self._rate.refused()
                # Of the requests that were under way together, each may be refused: that is one reason to halve, not many.
                if halvings == self._halvings:
                    self._halvings += 1
                    self._allow(fewer(self._allowed))
                raise
            self._rate.answered()
            self._allow(more(self._allowed, self._most))

    def _allow(self, allowed: float) -> None:
        self._allowed = allowed
        if self._turns.limit != int(allowed):
            self._turns.limit = int(allowed)

    @property
    def traits(self) -> StoreTraits:
        return self._store.traits

    async def __aenter__(self) -> Limiting:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        async with self._turn():
            return await self._store.put(key, body, if_match=if_match, if_absent=if_absent, durable=durable)

    async def settle(self, keys: Sequence[str]) -> None:
        async with self._turn():
            await self._store.settle(keys)

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        async with self._turn():
            return await self._store.copy(key, source)

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        async with self._turn():
            return await self._store.get(key, offset=offset, size_bytes=size_bytes, if_match=if_match)

    async def get_into(self, key: str, buffer: memoryview, *, offset: int = 0) -> int:
        async with self._turn():
            return await self._store.get_into(key, buffer, offset=offset)

    async def head(self, key: str) -> ObjectInfo | None:
        async with self._turn():
            return await self._store.head(key)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        async with self._turn():
            return await self._store.list(prefix)

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        async with self._turn():
            return await self._store.list_page(prefix, token)

    async def list_multipart(self, prefix: str) -> Uploads:
        async with self._turn():
            return await self._store.list_multipart(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        async with self._turn():
            await self._store.delete(keys)

    async def begin_multipart(self, key: str) -> str:
        async with self._turn():
            return await self._store.begin_multipart(key)

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        async with self._turn():
            return await self._store.put_part(key, upload_id, number, offset, body)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        async with self._turn():
            return await self._store.copy_part(key, upload_id, number, offset, source)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        async with self._turn():
            return await self._store.complete_multipart(key, upload_id, parts)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        async with self._turn():
            await self._store.abort_multipart(key, upload_id)
