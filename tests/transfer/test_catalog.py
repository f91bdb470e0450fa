from __future__ import annotations

import json

import pytest

from ckpt_async.stores.contract import Body
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.catalog import Listing, latest_of, list_scope, list_task, resolve
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument, StoreObjectMissing
from ckpt_async.words.records import CheckpointRecord
from tests.transfer.parts import identity, record_of

pytestmark = pytest.mark.anyio
PATHSPEC = identity().pathspec
SCOPE = keys.scope_records_prefix(identity())


async def put(store: MemoryStore, record: CheckpointRecord) -> None:
    whose = identity(run=record.pathspec.split("/")[1], attempt=record.attempt)
    await store.put(keys.task_record_key(whose, record.name, record.version_id), Body.of(record.to_json()))
    await store.put(keys.record_key(record.key), Body.of(record.to_json()))


async def put_of_peer(store: MemoryStore, name: str, version: int) -> None:
    """A record as metaflow-checkpoint writes it: the name stands in the keys as it was typed."""
    ours = record_of(version, name="x")
    data = {key: value for key, value in ours.to_dict().items() if key in ours.to_dict() and not key.startswith("saved_at")}
    for extra in ("manifest", "save_number", "format_version"):
        del data[extra]
    data |= {"name": name, "key": ours.key.replace(".x.", f".{name}.")}
    text = Body.of(json.dumps(data).encode())
    await store.put(f"{keys.task_records_prefix(PATHSPEC)}0.{name}.{version}.metadata", text)
    await store.put(keys.record_key(data["key"]), text)


def orders(listing: Listing) -> list[tuple[int, int]]:
    return [record.order for record in listing.records]


async def test_newest_first_is_by_attempt_then_by_number() -> None:
    store = MemoryStore()
    for attempt, version in ((0, 5), (1, 0), (0, 10), (10, 0), (2, 3), (0, 9)):
        await put(store, record_of(version, attempt=attempt))
    expected = [(10, 0), (2, 3), (1, 0), (0, 10), (0, 9), (0, 5)]
    listing = await list_task(store, PATHSPEC)
    assert orders(listing) == expected and listing.damaged == ()
    assert orders(await list_scope(store, SCOPE)) == expected
    assert orders(await list_task(store, PATHSPEC, attempt=1)) == [(1, 0)] == orders(await list_scope(store, SCOPE, attempt=1))
    assert orders(await list_task(store, PATHSPEC, attempt=7)) == []


async def test_names_are_told_apart_also_those_with_dots_and_those_of_the_peer() -> None:
    store = MemoryStore()
    names = ["model", "model.v1", "model.v1.2", "größe/1", "0"]
    for version, name in enumerate(names):
        await put(store, record_of(version, name=name))
    await put_of_peer(store, "model.v1", 7)
    await put_of_peer(store, "model.7", 8)
    # As ours writes "model.v1".
    await put_of_peer(store, "model~2Ev1", 9)
    for name, versions in (
        ("model", [0]),
        ("model.v1", [7, 1]),
        ("model.v1.2", [2]),
        ("größe/1", [3]),
        ("0", [4]),
        ("model.7", [8]),
        ("model~2Ev1", [9]),
        ("v1", []),
    ):
        for listing in (await list_task(store, PATHSPEC, name=name), await list_scope(store, SCOPE, name=name)):
            assert [record.version_id for record in listing.records] == versions, name
            assert {record.name for record in listing.records} <= {name}


async def test_one_task_is_not_another_whose_name_begins_alike() -> None:
    store = MemoryStore()
    await put(store, record_of(1, run="1"))
    await put(store, record_of(2, run="12"))
    assert orders(await list_task(store, "Flow/1/train/2")) == [(0, 1)]
    assert orders(await list_task(store, "Flow/12/train/2")) == [(0, 2)]
    assert orders(await list_task(store, "Flow/1/train/22")) == []


async def test_runs_of_a_scope_are_ordered_by_time() -> None:
    store = MemoryStore()
    for run, attempt, version, when in (("1", 0, 0, 10), ("1", 1, 0, 50), ("2", 0, 9, 30), ("1", 0, 1, 60)):
        await put(store, record_of(version, run=run, attempt=attempt, now_unix_ns=when))
    found = (await list_scope(store, SCOPE)).records
    assert [(record.pathspec.split("/")[1], *record.order) for record in found] == [
        ("1", 1, 0),
        ("1", 0, 1),
        ("1", 0, 0),
        ("2", 0, 9),
    ]


async def test_a_damaged_record_is_named_and_hides_no_other() -> None:
    store = MemoryStore()
    for version in range(3):
        await put(store, record_of(version))
    prefix = keys.task_records_prefix(PATHSPEC)
    await store.put(f"{prefix}0.best.1.metadata", Body.of(b'{"size": 3'))
    await store.put(f"{prefix}latest", Body.of(b"also no record, and not listed"))
    await store.put(f"{prefix}deeper/0.best.9.metadata", Body.of(b"not ours"))
    await store.put(f"{prefix}notes.txt", Body.of(b"not ours"))
    listing = await list_task(store, PATHSPEC)
    assert orders(listing) == [(0, 2), (0, 0)]
    assert [damage.on for damage in listing.damaged] == [f"{prefix}0.best.1.metadata"]


async def test_a_record_deleted_while_the_list_is_read_is_not_there() -> None:
    objects = MemoryObjects()
    await put(MemoryStore(objects), record_of(0))
    await put(MemoryStore(objects), record_of(1))
    gone = Fault("get", "*.1.metadata", error=lambda: StoreObjectMissing("read"))
    listing = await list_task(FaultyStore(MemoryStore(objects), [gone]), PATHSPEC)
    assert orders(listing) == [(0, 0)] and not listing.damaged


async def test_a_damaged_pointer_is_not_read_as_no_checkpoint() -> None:
    store = MemoryStore()
    pointer = keys.task_latest_key(PATHSPEC)
    assert await latest_of(store, pointer) is None
    for damage in (b"", b"null", b"{}", b"\x00"):
        await store.put(pointer, Body.of(damage))
        with pytest.raises(CheckpointDamaged, match="latest"):
            await latest_of(store, pointer)


class Named:
    def __init__(self, key: object) -> None:
        self.key = key

    def __repr__(self) -> str:
        return f"Named({self.key!r})"


async def test_whatever_names_a_checkpoint_finds_it() -> None:
    store = MemoryStore()
    record = record_of(3, name="a.b")
    await put(store, record)
    for reference in (record.key, record, record.to_dict(), dict(record.to_dict()), Named(record.key)):
        assert await resolve(store, reference) == record
    with pytest.raises(CheckpointNotFound, match="memory://"):
        await resolve(store, record_of(4).key)


@pytest.mark.parametrize(
    "reference", [None, 3, "", "latest", b"x", {}, {"key": 3}, [], Named(None), Named(b"x"), {"key": "../../x"}, "a/b/c"], ids=repr
)
async def test_what_names_nothing_is_refused_before_the_store_is_asked(reference: object) -> None:
    store = FaultyStore(MemoryStore())
    with pytest.raises(InvalidArgument):
        await resolve(store, reference)
    assert store.calls == []


async def test_a_reference_to_a_save_that_never_arrived_says_why() -> None:
    lost = {"type": "checkpoint-not-stored", "version_id": 3, "name": "best", "reason": "given up for a later save"}
    with pytest.raises(InvalidArgument, match="given up for a later save"):
        await resolve(MemoryStore(), lost)


async def test_a_record_under_the_key_of_another_is_damage() -> None:
    store = MemoryStore()
    await store.put(keys.record_key(record_of(0).key), Body.of(record_of(1).to_json()))
    with pytest.raises(CheckpointDamaged, match="another"):
        await resolve(store, record_of(0).key)
