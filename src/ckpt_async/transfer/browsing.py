"""Looking at what a store has, beyond one task: listings page by page, records read many at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from ckpt_async.stores.contract import ObjectInfo, Store
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.catalog import READS_AT_ONCE, Listing, latest_of, newest_first
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, StoreObjectMissing
from ckpt_async.words.names import encode_name
from ckpt_async.words.records import CheckpointRecord

__all__ = ["at_once", "each_object", "latest_of_tasks", "list_below", "tasks_below"]

_W = TypeVar("_W")


async def each_object(store: Store, prefix: str) -> AsyncIterator[ObjectInfo]:
    """Yield what `Store.list` returns, in an order of the store's own, with one page of it in memory at a time."""
    page, token = await store.list_page(prefix)
    while True:
        for info in page:
            yield info
        if not token:
            return
        page, token = await store.list_page(prefix, token)


async def at_once(
    act: Callable[[Iterator[_W]], Coroutine[Any, Any, None]], work: Iterable[_W], *, tasks: int = READS_AT_ONCE
) -> None:
    """Let a number of tasks take from `work` until it is used up."""
    left = iter(work)
    async with plain_task_group() as group:
        for _ in range(tasks):
            group.start_soon(act, left)


async def list_below(store: Store, above: str = "", *, name: str | None = None, attempt: int | None = None) -> Listing:
    """List the checkpoints of a flow, a run, a step or a task, newest first: tasks by the time of their newest one.

    Parameters
    ----------
    above : str
        The beginning of a pathspec: ``FLOW``, ``FLOW/RUN``, and so on; empty: all that the store has.
    """
    prefix = keys.task_records_prefix(above) if above else keys.ALL_TASK_RECORDS
    found = []
    async for info in each_object(store, prefix):
        parts = info.key.removeprefix(keys.ALL_TASK_RECORDS).split("/")
        if len(parts) == 5 and parts[4].endswith(keys.RECORD_SUFFIX) and _is_wanted(parts[4], name, attempt):
            found.append(info.key)
    return await _read_records(store, found, name)


def _is_wanted(leaf: str, name: str | None, attempt: int | None) -> bool:
    fields = leaf.removesuffix(keys.RECORD_SUFFIX).split(".")
    return (attempt is None or fields[0] == str(attempt)) and (name is None or ".".join(fields[1:-1]) in (name, encode_name(name)))


async def _read_records(store: Store, names: Iterable[str], name: str | None) -> Listing:
    records: list[CheckpointRecord] = []
    damaged: list[CheckpointDamaged] = []

    async def read_all(left: Iterator[str]) -> None:
        for key in left:
            try:
                records.append(CheckpointRecord.from_json(await store.get(key), source=key))
            except StoreObjectMissing:
                pass  # Deleted between the listing and the read: it is not there.
            except CheckpointDamaged as error:
                damaged.append(error)

    await at_once(read_all, names)
    # What ours writes for one name, another program may have written for another.
    return Listing(newest_first(record for record in records if name in (None, record.name)), tuple(damaged))


async def tasks_below(store: Store, above: str, *, most: int) -> list[str]:
    """Return the pathspecs of tasks that have stored checkpoints, so many at most; `above`: as for `list_below`."""
    found: dict[str, None] = {}
    async for info in each_object(store, keys.task_records_prefix(above) if above else keys.ALL_TASK_RECORDS):
        parts = info.key.removeprefix(keys.ALL_TASK_RECORDS).split("/")
        if len(parts) == 5 and parts[4].endswith(keys.RECORD_SUFFIX):
            found["/".join(parts[:4])] = None
            if len(found) >= most:
                break
    return list(found)


async def latest_of_tasks(store: Store, pathspecs: Iterable[str]) -> frozenset[str]:
    """Return the keys of the checkpoints that the pointers of these tasks name; one that can't be read names none."""
    found: set[str] = set()

    async def read_all(left: Iterator[str]) -> None:
        for pathspec in left:
            try:
                record = await latest_of(store, keys.task_latest_key(pathspec))
            except CheckpointDamaged:
                continue
            if record is not None:
                found.add(record.key)

    await at_once(read_all, sorted(set(pathspecs)))
    return frozenset(found)
