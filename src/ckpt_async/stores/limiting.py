"""A store with a bound on the requests that are under way at once."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import anyio

from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store, StoreTraits

__all__ = ["Limiting"]


class Limiting(Store):
    """Pass on at most `requests_at_once` calls at a time; the others wait for their turn, in order.

    It belongs below `Retrying`: a call that backs off then holds no turn.

    Parameters
    ----------
    store : Store
        What answers; entered and left together with this one.
    requests_at_once : int
        1 or more.
    """

    def __init__(self, store: Store, requests_at_once: int) -> None:
        if requests_at_once < 1:
            raise ValueError("requests_at_once must be 1 or more")
        self._store = store
        self._turns = anyio.Semaphore(requests_at_once)

    @property
    def traits(self) -> StoreTraits:
        return self._store.traits

    async def __aenter__(self) -> Limiting:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def put(self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        async with self._turns:
            return await self._store.put(key, body, if_match=if_match, if_absent=if_absent)

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        async with self._turns:
            return await self._store.copy(key, source)

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        async with self._turns:
            return await self._store.get(key, offset=offset, size_bytes=size_bytes, if_match=if_match)

    async def head(self, key: str) -> ObjectInfo | None:
        async with self._turns:
            return await self._store.head(key)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        async with self._turns:
            return await self._store.list(prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        async with self._turns:
            await self._store.delete(keys)

    async def begin_multipart(self, key: str) -> str:
        async with self._turns:
            return await self._store.begin_multipart(key)

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        async with self._turns:
            return await self._store.put_part(key, upload_id, number, offset, body)

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        async with self._turns:
            return await self._store.copy_part(key, upload_id, number, offset, source)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        async with self._turns:
            return await self._store.complete_multipart(key, upload_id, parts)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        async with self._turns:
            await self._store.abort_multipart(key, upload_id)
