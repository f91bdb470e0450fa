"""What a gang goes on from: damaged records, commits that were not finished, deletions in between, other runs' groups."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import Body, Store
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.catalog import list_task, resolve
from ckpt_async.transfer.deletion import delete_checkpoint
from ckpt_async.transfer.download import download
from ckpt_async.transfer.group_catalog import agreed_group, mark_damaged, part_of
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, StoreUnavailable
from ckpt_async.words.groups import GROUP_STRIDE, part_key, resume_key
from tests.transfer.parts import SmallMemory, content_of, identity, job_of, save_whole
from tests.transfer.test_gathering import Node, gang

pytestmark = pytest.mark.anyio


async def store_all(store: Store, nodes: list[Node]) -> str:
    for node in nodes:
        await node.store(store)
    return nodes[0].record.key


async def agreed(store: Store, attempt: int, policy: str = "fresh", run: str = "1") -> tuple[str | None, list[str]]:
    """The key of what is agreed on, and what is named as passed by."""
    named: list[CheckpointDamaged] = []
    group = await agreed_group(store, identity(attempt=attempt, run=run), policy, named.append)
    return group.key if group is not None else None, [damage.on for damage in named]


async def damage(store: Store, key: str) -> None:
    await store.put(key, Body.of((await store.get(key)).replace(b"best", b"bEst")))


async def test_a_group_is_gone_on_from_while_one_of_its_records_is_whole(tmp_path: Path) -> None:
    store = SmallMemory()
    first = await store_all(store, gang(tmp_path))
    second = await store_all(store, gang(tmp_path, version=2 * GROUP_STRIDE))
    of_task, by_key = keys.task_record_key_of(second, identity().pathspec), keys.record_key(second)
    text = await store.get(by_key)
    await damage(store, by_key)
    assert await agreed(store, 1) == (second, [])
    await store.put(by_key, Body.of(text))
    await damage(store, of_task)
    assert await agreed(store, 2) == (second, [])
    await damage(store, by_key)
    # The first node has found it, and every node names it.
    assert await agreed(store, 3) == await agreed(store, 3) == (first, [of_task])
    # Those that have agreed already are not parted by it.
    assert await agreed(store, 2) == (second, [])
    await store.put(resume_key(identity().pathspec, 2), Body.of(b'{"record": 1'))
    with pytest.raises(CheckpointDamaged, match="The next attempt decides anew"):
        await agreed(store, 2)


async def test_what_all_have_passed_by_is_named_to_all(tmp_path: Path) -> None:
    store = SmallMemory()
    key = await store_all(store, gang(tmp_path))
    await mark_damaged(store, await resolve(store, key))
    assert await agreed(store, 1) == await agreed(store, 1) == (None, [key])
    assert await agreed(store, 0, "eager", run="2") == (None, [key])
    # Of one that is gone there is nothing to note.
    whole = await resolve(store, key)
    await delete_checkpoint(store, key)
    before = await store.list("")
    await mark_damaged(store, whole)
    assert await store.list("") == before
    assert await agreed(store, 2) == (None, [])


async def test_no_attempt_begins_with_a_group_that_must_not_be_the_latest(tmp_path: Path) -> None:
    store = SmallMemory()
    first, second = gang(tmp_path), gang(tmp_path, version=2 * GROUP_STRIDE)
    # One node that says so is enough.
    second[1].record = dataclasses.replace(second[1].record, latest=False)
    key = await store_all(store, first)
    await store_all(store, second)
    assert len((await list_task(store, identity().pathspec)).records) == 2
    assert await agreed(store, 1) == (key, [])


@pytest.mark.parametrize("lost_at", ["*/verdict", "*/manifests/*", "*/artifact_metadata/*.metadata", "*/metadata/*.metadata"])
async def test_a_commit_whose_last_node_was_lost_is_finished_by_the_next_attempt(tmp_path: Path, lost_at: str) -> None:
    store, nodes = SmallMemory(), gang(tmp_path)
    for node in nodes[:2]:
        await node.store(store)
    with pytest.raises(StoreUnavailable):
        await nodes[2].store(FaultyStore(store, [Fault("put", key=lost_at)]))
    # Of another one a part is missing.
    await gang(tmp_path, version=2 * GROUP_STRIDE)[0].store(store)
    assert (await list_task(store, identity().pathspec)).records == ()
    # Not by the attempt itself, whose nodes may be alive.
    assert await agreed(store, 0) == (None, [])
    assert await agreed(store, 1) == (nodes[0].record.key, [])
    assert [record.key for record in (await list_task(store, identity().pathspec)).records] == [nodes[0].record.key]
    await download(store, part_of(await resolve(store, nodes[0].record.key), 2), str(tmp_path / "part"))
    assert content_of(tmp_path / "part") == nodes[2].files


async def test_what_is_being_deleted_or_is_damaged_is_not_finished(tmp_path: Path) -> None:
    store, nodes, others = SmallMemory(), gang(tmp_path), gang(tmp_path, version=2 * GROUP_STRIDE)
    key = await store_all(store, nodes)
    with pytest.raises(StoreUnavailable):
        await delete_checkpoint(FaultyStore(store, [Fault("delete", key="*/groups/*")]), key)
    assert await store.head(part_key(nodes[0].record.group_folder, 0)) is not None
    assert await agreed(store, 1) == (None, [])
    with pytest.raises(CheckpointNotFound):
        await resolve(store, key)
    # What stands in a part is not believed: the folder says which group it is of.
    await others[0].store(store)
    strange = part_key(nodes[0].record.group_folder, 0)
    await store.put(strange, Body.of(await store.get(part_key(others[0].record.group_folder, 0))))
    assert await agreed(store, 2) == (None, [strange])


async def test_eager_takes_another_run_s_group_only_where_the_task_has_nothing(tmp_path: Path) -> None:
    store = SmallMemory()
    key = await store_all(store, gang(tmp_path))
    assert await agreed(store, 0, "eager", run="2") == (key, [])
    assert await agreed(store, 0, "fresh", run="3") == (None, [])
    unwanted = job_of(tmp_path / "unwanted", run="2")
    await save_whole(store, dataclasses.replace(unwanted, record=dataclasses.replace(unwanted.record, latest=False)), latest=False)
    assert await agreed(store, 1, "eager", run="2") == (key, [])
    own = await save_whole(store, job_of(tmp_path / "own", run="2", version=1))
    assert await agreed(store, 2, "eager", run="2") == (None, [])
    # That it can't be read does not make it nothing.
    await damage(store, keys.task_record_key_of(own.key, own.pathspec))
    with anyio.fail_after(30):
        assert (await agreed(store, 3, "eager", run="2"))[1] == [keys.task_record_key_of(own.key, own.pathspec)]
