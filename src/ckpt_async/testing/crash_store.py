"""Makes the engine's calls of the store into numbered steps, and watches that no `latest` pointer moves back."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TypeVar

from ckpt_async.stores.contract import Body, CopySource, ObjectInfo, Part, Store, StoreTraits
from ckpt_async.testing.crash_plan import Steps
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointError, StoreAccessDenied, StoreUnavailable
from ckpt_async.words.records import CheckpointRecord, supersedes

__all__ = ["PART_BYTES", "StepStore"]

#: Small, so that a file of a test has several parts.
PART_BYTES = 512 * 1024

_READ = ("timeout", "503", "403")
_WRITE = ("kill", *_READ, "reset")

T = TypeVar("T")


class StepStore(Store):
    """Pass calls on, each a step. A call that fails with ``reset`` has been carried out: its answer is what gets lost.

    Parameters
    ----------
    store : Store
        What answers; bare, below retries.
    steps : Steps
        Asked before each call.
    """

    def __init__(self, store: Store, steps: Steps) -> None:
        self._store = store
        self._steps = steps
        # 503 is what a store says several times in a row.
        self._busy = 0

    @property
    def traits(self) -> StoreTraits:
        """As the store's, with small parts. A far one: there, what has not changed is looked for in what was stored before."""
        return dataclasses.replace(self._store.traits, max_part_bytes=PART_BYTES, far=True)

    async def __aenter__(self) -> StepStore:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def _pass(self, operation: str, key: str, kinds: tuple[str, ...], call: Callable[[], Awaitable[T]]) -> T:
        if self._busy:
            self._busy -= 1
            raise StoreUnavailable("reach the store", on=key, cause="503 (as the test's plan says)")
        wrong = self._steps.reach(operation, f"store:{key}", kinds)
        if wrong == "timeout":
            raise StoreUnavailable("reach the store", on=key, cause="no answer in time (as the test's plan says)")
        if wrong == "503":
            self._busy = 2
            raise StoreUnavailable("reach the store", on=key, cause="503 (as the test's plan says)")
        if wrong == "403":
            raise StoreAccessDenied("reach the store", on=key, cause="403 (as the test's plan says)")
        result = await call()
        if wrong == "reset":
            raise StoreUnavailable("reach the store", on=key, cause="reset by peer (as the test's plan says)")
        return result

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        """As the contract says."""

        async def act() -> ObjectInfo:
            before = await self._store.get(key, if_match=if_match) if if_match is not None else None
            info = await self._store.put(key, body, if_match=if_match, if_absent=if_absent, durable=durable)
            if key.endswith(f"/{keys.LATEST}"):
                self._watch(key, before, b"".join(body.chunks))
            return info

        return await self._pass("put", key, _WRITE, act)

    def _watch(self, key: str, before: bytes | None, after: bytes) -> None:
        """The write was conditional on `before`, so no other writer came between the two."""
        new = CheckpointRecord.from_json(after, source=key)
        self._steps.journal.note("latest", key=key, order=new.order)
        if before is None:
            return
        try:
            old = CheckpointRecord.from_json(before, source=key)
        except CheckpointError as error:
            self._steps.journal.note("violation", text=f"the pointer {key} was damaged: {error}")
            return
        if not supersedes(new, old):
            self._steps.journal.note("violation", text=f"the pointer {key} moved from {old.order} back to {new.order}")

    async def copy(self, key: str, source: CopySource) -> ObjectInfo:
        """As the contract says."""
        return await self._pass("copy", key, _WRITE, lambda: self._store.copy(key, source))

    async def settle(self, keys: Sequence[str]) -> None:
        """As the contract says."""
        await self._pass("settle", keys[0] if keys else "", _WRITE, lambda: self._store.settle(keys))

    async def get(self, key: str, *, offset: int = 0, size_bytes: int | None = None, if_match: str | None = None) -> bytes:
        """As the contract says."""
        return await self._pass(
            "get", key, _READ, lambda: self._store.get(key, offset=offset, size_bytes=size_bytes, if_match=if_match)
        )

    async def head(self, key: str) -> ObjectInfo | None:
        """As the contract says."""
        return await self._pass("head", key, _READ, lambda: self._store.head(key))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """As the contract says."""
        return await self._pass("list", prefix, _READ, lambda: self._store.list(prefix))

    async def delete(self, keys: Sequence[str]) -> None:
        """As the contract says."""
        await self._pass("delete", keys[0] if keys else "", _WRITE, lambda: self._store.delete(keys))

    async def begin_multipart(self, key: str) -> str:
        """As the contract says."""
        return await self._pass("begin_multipart", key, _WRITE, lambda: self._store.begin_multipart(key))

    async def put_part(self, key: str, upload_id: str, number: int, offset: int, body: Body) -> Part:
        """As the contract says."""
        return await self._pass("put_part", key, _WRITE, lambda: self._store.put_part(key, upload_id, number, offset, body))

    async def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        """As the contract says."""
        return await self._pass("copy_part", key, _WRITE, lambda: self._store.copy_part(key, upload_id, number, offset, source))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> ObjectInfo:
        """As the contract says."""
        return await self._pass("complete_multipart", key, _WRITE, lambda: self._store.complete_multipart(key, upload_id, parts))

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """As the contract says."""
        await self._pass("abort_multipart", key, _WRITE, lambda: self._store.abort_multipart(key, upload_id))
