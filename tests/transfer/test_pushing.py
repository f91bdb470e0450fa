"""Storing files from where they lie: all of it, or nothing; and what differs between two checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from ckpt_async.disk.scan import scan
from ckpt_async.stores.contract import Body, ObjectInfo, Store
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.comparing import Contents, Difference, FileFacts, compare
from ckpt_async.transfer.pushing import push
from ckpt_async.words.errors import SnapshotFailed, StoreAccessDenied, StoreError
from ckpt_async.words.identity import identity_outside_flow
from ckpt_async.words.records import CheckpointRecord
from tests.engine.desk import write_tree
from tests.transfer.parts import PART_BYTES, SmallMemory

pytestmark = pytest.mark.anyio

FILES = {"small": b"s", "large": bytes(5 * PART_BYTES)}


def pushing(store: Store, folder: Path, pathspec: str = "push/me/model/1") -> Callable[[], object]:
    return functools.partial(
        push,
        store,
        scan(folder),
        lambda attempt: identity_outside_flow(pathspec, attempt=attempt),
        name="n",
        metadata={},
        storage_format="files",
        latest=True,
        on_progress=lambda _: None,
    )


async def pushed(store: Store, folder: Path) -> CheckpointRecord:
    record = await pushing(store, folder)()  # type: ignore[misc]
    assert isinstance(record, CheckpointRecord)
    return record


async def test_of_two_at_once_each_gets_an_attempt(tmp_path: Path) -> None:
    objects = MemoryObjects()
    found: list[int] = []

    async def one(folder: Path) -> None:
        async with SmallMemory(objects) as store:
            found.append((await pushed(store, folder)).attempt)

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(one, write_tree(tmp_path / str(number), FILES))
    assert sorted(found) == [1000, 1001, 1002, 1003]
    async with SmallMemory(objects) as store:
        assert len([info for info in await store.list("") if info.key.endswith("/large")]) == 4


@pytest.mark.parametrize("operation", ["put_part", "complete_multipart", "put"])
async def test_a_refusal_leaves_nothing(tmp_path: Path, operation: str) -> None:
    def refuse() -> StoreError:
        return StoreAccessDenied("reach the store", cause="made by a test")

    objects = MemoryObjects()
    key = "*/small" if operation == "put" else "*/large"
    async with FaultyStore(SmallMemory(objects), [Fault(operation, key, error=refuse)]) as store:
        with pytest.raises(StoreAccessDenied):
            await pushed(store, write_tree(tmp_path / "model", FILES))
    assert (objects.contents, objects.uploads) == ({}, {})


@pytest.mark.parametrize("operation", ["put_part", "complete_multipart", "settle"])
async def test_a_cancellation_leaves_nothing(tmp_path: Path, operation: str) -> None:
    objects = MemoryObjects()
    fault = Fault(operation, error=None, gate=anyio.Event())
    async with FaultyStore(SmallMemory(objects), [fault]) as store:
        async with anyio.create_task_group() as group:
            group.start_soon(pushing(store, write_tree(tmp_path / "model", FILES)))  # type: ignore[arg-type]
            await fault.reached.wait()
            group.cancel_scope.cancel()
    assert (objects.contents, objects.uploads) == ({}, {})


async def test_a_commit_that_has_begun_is_finished(tmp_path: Path) -> None:
    objects = MemoryObjects()
    fault = Fault("put", "*/latest", error=None, gate=anyio.Event())
    async with FaultyStore(SmallMemory(objects), [fault]) as store:
        async with anyio.create_task_group() as group:
            group.start_soon(pushing(store, write_tree(tmp_path / "model", FILES)))  # type: ignore[arg-type]
            await fault.reached.wait()
            group.cancel_scope.cancel()
            assert fault.gate is not None
            fault.gate.set()
    assert len([key for key in objects.contents if key.endswith("latest")]) == 2


class Changing(MemoryStore):
    """Somebody writes to a file as soon as the first object is stored."""

    def __init__(self, objects: MemoryObjects, change: Callable[[], object]) -> None:
        super().__init__(objects)
        self._change = change

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        self._change()
        return await super().put(key, body, if_match=if_match, if_absent=if_absent, durable=durable)


@pytest.mark.parametrize("change", ["overwrite", "truncate", "remove"])
async def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path, change: str) -> None:
    folder = write_tree(tmp_path / "model", FILES)

    def act() -> None:
        if change == "remove":
            (folder / "large").unlink(missing_ok=True)
        else:
            (folder / "large").write_bytes(bytes(5 * PART_BYTES) if change == "overwrite" else b"")

    objects = MemoryObjects()
    async with Changing(objects, act) as store:
        with pytest.raises(SnapshotFailed, match=r"'large' (has changed while it was read|is gone)"):
            await pushed(store, folder)
    assert (objects.contents, objects.uploads) == ({}, {})


def test_differences() -> None:
    before = Contents({"a": FileFacts(1, "00"), "b": FileFacts(2, "00"), "c": FileFacts(3, "00"), "d": FileFacts(4, "00")}, True)
    after = Contents({"a": FileFacts(1, "00"), "b": FileFacts(2, "11"), "c": FileFacts(5, "00"), "e": FileFacts(6, "00")}, True)
    assert compare(before, after) == (
        Difference("b", "changed", 2, 2),
        Difference("c", "changed", 3, 5),
        Difference("d", "removed", 4, None),
        Difference("e", "added", None, 6),
    )
    # Without a digest, a size is all that can be compared.
    assert compare(before, Contents({"b": FileFacts(2, "")}, False))[1:] == compare(before, Contents({}, True))[2:]
