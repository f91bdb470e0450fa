"""A store that fails, or stands still, where a test wants it."""

from __future__ import annotations

import fnmatch
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

import anyio

from ckpt_async.stores.contract import Body, CopySource, ListPage, ObjectInfo, Part, Store, StoreTraits, Uploads
from ckpt_async.words.errors import StoreError, StoreUnavailable

__all__ = ["Fault", "FaultyStore", "unavailable"]

T = TypeVar("T")


def unavailable() -> StoreError:
    """Return a transient error, made for a test."""
    return StoreUnavailable("reach the store", cause="a fault made by a test")


@dataclass
class Fault:
    """What goes wrong, and when.

    Attributes
    ----------
    operation : str
        A method of `Store`, such as ``"put_part"``, or a pattern of `fnmatch`: ``"*"`` is all of them.
    key : str
        A pattern of `fnmatch` for the key (for `list` the prefix, for `delete` any of the keys).
    calls : container of int, optional
        Which of the matching calls, counted from 1: a set, a range. None: every one.
    error : callable, optional
        Makes what is raised; None: the call goes through, after `gate`.
    after : bool
        Raise after the store has done it: an answer that gets lost.
    gate : anyio.Event, optional
        The call waits until it is set.
    reached : anyio.Event
        Set when the fault strikes for the first time (before it waits at the gate).
    """

    operation: str = "*"
    key: str = "*"
    calls: set[int] | range | None = None
    error: Callable[[], StoreError] | None = unavailable
    after: bool = False
    gate: anyio.Event | None = None
    reached: anyio.Event = field(default_factory=anyio.Event)
    _seen: int = 0

    def strikes(self, operation: str, keys: Sequence[str]) -> bool:
        """Count a call; return whether this fault is meant for it."""
        if not fnmatch.fnmatchcase(operation, self.operation) or not any(fnmatch.fnmatchcase(key, self.key) for key in keys):
            return False
        self._seen += 1
        return self.calls is None or self._seen in self.calls


class FaultyStore(Store):
    """Pass calls on, apart from those that a fault strikes; the first fault that matches decides.

    Parameters
    ----------
    store : Store
        What answers.
    faults : sequence of Fault
        May be changed while the store is used.

    Attributes
    ----------
    faults : list of Fault
        As given.
    calls : list of (str, str)
        Every call so far: method and key.
    """

    def __init__(self, store: Store, faults: Sequence[Fault] = ()) -> None:
        self._store = store
        self.faults = list(faults)
        self.calls: list[tuple[str, str]] = []

    @property
    def traits(self) -> StoreTraits:
        """As the store's."""
        return self._store.traits

    async def __aenter__(self) -> FaultyStore:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def _pass(self, operation: str, keys: Sequence[str], call: Callable[[], Awaitable[T]]) -> T:
        self.calls.append((operation, keys[0] if keys else ""))
        fault = next((fault for fault in self.faults if fault.strikes(operation, keys)), None)
        if fault is None:
            return await call()
        fault.reached.set()
        if fault.after:
            result = await call()
        if fault.gate is not None:
            await fault.gate.wait()
        if fault.error is not None:
            raise fault.error()
        return result if fault.after else await call()

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        """As the contract says."""
        return await self._pass(
            "put", [key], lambda: self._store.put(key, body, if_match=if_match, if_absent=if_absent, durable=durable)
        )

    async def settle(self, keys: Sequence[str]) -> None:
        """As the contract says."""
        await self._pass("settle", keys, lambda: self._store.settle(keys))

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        """As the contract says."""
        return await self._pass("copy", [key], lambda: self._store.copy(key, source))

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        """As the contract says."""
        return await self._pass("get", [key], lambda: self._store.get(key, offset=offset, size_bytes=size_bytes, if_match=if_match))

    async def head(self, key: str) -> ObjectInfo | None:
        """As the contract says."""
        return await self._pass("head", [key], lambda: self._store.head(key))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """As the contract says."""
        return await self._pass("list", [prefix], lambda: self._store.list(prefix))

    async def list_page(self, prefix: str, token: str = "") -> ListPage:
        """As the contract says."""
        return await self._pass("list_page", [prefix], lambda: self._store.list_page(prefix, token))

    async def list_multipart(self, prefix: str) -> Uploads:
        """As the contract says."""
        return await self._pass("list_multipart", [prefix], lambda: self._store.list_multipart(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        """As the contract says."""
        await self._pass("delete", keys, lambda: self._store.delete(keys))

    async def begin_multipart(self, key: str) -> str:
        """As the contract says."""
        return await self._pass("begin_multipart", [key], lambda: self._store.begin_multipart(key))

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        """As the contract says."""
        return await self._pass("put_part", [key], lambda: self._store.put_part(key, upload_id, number, offset, body))

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        """As the contract says."""
        return await self._pass("copy_part", [key], lambda: self._store.copy_part(key, upload_id, number, offset, source))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        """As the contract says."""
        return await self._pass("complete_multipart", [key], lambda: self._store.complete_multipart(key, upload_id, parts))

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """As the contract says."""
        await self._pass("abort_multipart", [key], lambda: self._store.abort_multipart(key, upload_id))
