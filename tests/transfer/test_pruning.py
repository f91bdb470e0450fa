"""Deleting by rules: what is kept is whole, what goes is gone, whatever fails or happens in between."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import Body, Store
from ckpt_async.stores.memory import MemoryObjects, MemoryStore
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.catalog import latest_of, list_task
from ckpt_async.transfer.commit import commit
from ckpt_async.transfer.deletion import delete_checkpoint, delete_unless_wanted
from ckpt_async.transfer.group_catalog import mark_damaged
from ckpt_async.transfer.pins import pin, pinned_keys_of, unpin
from ckpt_async.transfer.pruning import PruneResult, plan_prune, prune, prune_all
from ckpt_async.transfer.shape import check_shape
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, StoreUnavailable
from ckpt_async.words.events import CheckpointPruned, Notice
from ckpt_async.words.groups import GROUP_STRIDE
from ckpt_async.words.keep_rules import KeepRules
from ckpt_async.words.manifest import Manifest
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.worker.retention import Retention
from tests.transfer.parts import ListLog, SmallMemory, identity, job_of, record_of, save_whole
from tests.transfer.test_deletion import (
    DEADLINE_S,
    SCOPE_POINTER,
    TASK_POINTER,
    Shuffled,
    all_of,
    check_whole,
    make_store,
    put_of_peer,
)
from tests.transfer.test_gathering import gang

__all__ = ["make_store"]  # a fixture

pytestmark = pytest.mark.anyio
LAST_TWO = KeepRules(last=2)


async def save(store: Store, folder: Path, version: int, *, latest: bool = True, **about: object) -> CheckpointRecord:
    content = {"a": b"a" * 3, "deep/b": bytes([version]) * 1500}
    job = job_of(folder, content, version=version, now_unix_ns=10**18 + version, **about)
    job = dataclasses.replace(job, record=dataclasses.replace(job.record, latest=latest))
    return await save_whole(store, job, latest=latest)


async def save_some(store: Store, folder: Path, count: int, *, first: int = 0) -> list[CheckpointRecord]:
    """Save in each format, one after the other."""
    return [
        await save(store, folder, number, storage_format=("files", "tar")[number % 2]) for number in range(first, first + count)
    ]


async def prune_task(store: Store, rules: KeepRules = LAST_TWO, pathspec: str = identity().pathspec) -> PruneResult:
    listing = await list_task(store, pathspec)
    return await prune_all(store, await plan_prune(store, listing.records, rules))


async def test_all_formats_and_those_of_the_peer_go_and_what_is_kept_stays(make_store: Callable[[], Store], tmp_path: Path) -> None:
    async with make_store() as store:
        theirs = await put_of_peer(store, "files", "best", 10**17)
        mine = await save_some(store, tmp_path / "s", 4, first=10)
        other_run = await save(store, tmp_path / "s", 1, run="2")
        other_name = await save(store, tmp_path / "s", 2, name="other")
        await pin(store, mine[1])
        before = {info.key for info in await store.list("")}
        result = await prune_task(store)
        assert result.deleted == (theirs, mine[0]) and not (result.spared or result.finished or result.problems)
        left = {info.key for info in await store.list("")}
        assert before - left == all_of(theirs, before) | all_of(mine[0], before)
        assert await check_whole(store, tmp_path / "loaded") == {one.key for one in (*mine[1:], other_run, other_name)}
        assert await pinned_keys_of(store, mine) == {mine[1].key}
        await unpin(store, mine[1].key)
        assert (await prune_task(store)).deleted == (mine[1],)
        assert await latest_of(store, TASK_POINTER) == await latest_of(store, SCOPE_POINTER) == mine[3]
        assert not [info for info in await store.list("") if "/pins/" in info.key or "/deletions/" in info.key]


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_at_any_step_leaves_nothing_half_and_the_next_call_finishes(tmp_path: Path, after: bool) -> None:
    prepared = MemoryObjects()
    saved = await save_some(MemoryStore(prepared), tmp_path / "s", 4)
    kept = {record.key for record in saved[2:]}
    finished: set[str] = prepared.contents.keys() - all_of(saved[0], prepared.contents) - all_of(saved[1], prepared.contents)
    for step in itertools.count(1):
        objects = MemoryObjects(dict(prepared.contents))
        interrupted = True
        try:
            await prune_task(FaultyStore(MemoryStore(objects), [Fault("*", calls={step}, after=after)]))
            interrupted = False
        except StoreUnavailable:
            assert await check_whole(MemoryStore(objects), tmp_path / f"{step}-found") >= kept
            await prune_task(MemoryStore(objects))
        assert objects.contents.keys() == finished, f"step {step}"
        if not interrupted:
            break
    assert step > 25


async def test_a_group_goes_whole_also_after_a_failure_at_any_step(tmp_path: Path) -> None:
    nodes = gang(tmp_path)
    record = nodes[0].record

    async def newer(store: Store) -> None:
        """Stands for the group save after it."""
        whole = (await list_task(store, record.pathspec)).records[0]
        later = record_of(3 * 10**9, name=record.name, now_unix_ns=whole.saved_at_unix_ns + 1)
        later = dataclasses.replace(later, num_nodes=whole.num_nodes, node_index=-1, group=True)
        await commit(store, nodes[0].identity, later, Manifest(later.key, "files", ()), latest=True)

    for step in itertools.count(1):
        store, done = SmallMemory(), False
        for node in nodes:
            node.log = ListLog()
            await node.store(store)
        await newer(store)
        try:
            await prune_task(FaultyStore(store, [Fault("*", calls={step})]), KeepRules(last=1), record.pathspec)
            done = True
        except StoreUnavailable:
            await prune_task(store, KeepRules(last=1), record.pathspec)
        left = [info.key for info in await store.list("") if record.key in info.key or record.group_folder in info.key]
        assert left == [f"{record.group_folder}verdict"], f"step {step}"
        if done:
            break
    assert step > 20


async def test_what_is_pinned_in_time_stays_whole_and_a_pin_that_comes_too_late_is_refused() -> None:
    refused = kept = 0
    for seed in range(150):
        Shuffled.chance = random.Random(seed)
        store = Shuffled(MemoryObjects())
        records = [record_of(number, now_unix_ns=10**18 + number) for number in range(3)]
        for record in records:
            await store.put(f"{record.key}/x", Body.of(b""))
            await commit(store, identity(), record, Manifest(record.key, "files", ()), latest=True)
        pinned: list[bool] = []

        async def pin_it(store: Store = store, record: CheckpointRecord = records[0], pinned: list[bool] = pinned) -> None:
            for _ in range(Shuffled.chance.randrange(60)):
                await anyio.lowlevel.checkpoint()
            try:
                await pin(store, record)
                pinned.append(True)
            except CheckpointNotFound:
                pinned.append(False)

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(prune_task, store)
                group.start_soon(pin_it)
        there = {info.key for info in await store.list("") if records[0].key.rpartition("/")[2] in info.key}
        if pinned == [True]:
            kept += 1
            assert not [key for key in there if "/deletions/" in key], f"seed {seed}"
            assert await check_shape(store, records[0]) == [] and keys.pin_key(records[0].key) in there, f"seed {seed}"
        else:
            refused += 1
            # Either it is gone, or the pin was seen all the same: then it stays, until somebody takes the pin away.
            if keys.pin_key(records[0].key) in there:
                assert await check_shape(store, records[0]) == [], f"seed {seed}"
                await unpin(store, records[0])
                await prune_task(store)
            assert not [info for info in await store.list("") if records[0].key.rpartition("/")[2] in info.key], f"seed {seed}"
    assert kept > 10 and refused > 10


async def test_an_explicit_deletion_ends_a_pin(tmp_path: Path) -> None:
    store = MemoryStore()
    record = await save(store, tmp_path / "s", 0)
    await pin(store, record.key)
    await pin(store, record.key)
    await delete_checkpoint(store, record.key)
    assert await store.list("") == []
    with pytest.raises(CheckpointNotFound):
        await pin(store, record.key)


async def test_what_has_become_the_latest_or_was_pinned_since_the_plan_is_spared(tmp_path: Path) -> None:
    store = MemoryStore()
    saved = [await save(store, tmp_path / "s", number) for number in range(5)]
    decision = await plan_prune(store, (await list_task(store, saved[0].pathspec)).records, LAST_TWO)
    assert decision.doomed == (saved[2], saved[1], saved[0])
    await pin(store, saved[0])
    for record in saved[3:]:
        await delete_checkpoint(store, record)
    assert await latest_of(store, TASK_POINTER) == saved[2]
    # Nothing of what was to be kept is there any more.
    assert (await prune_all(store, decision)).deleted == ()
    await save(store, tmp_path / "s", 3, latest=False)  # The pointer stays where it is.
    assert await latest_of(store, TASK_POINTER) == saved[2]
    result = await prune_all(store, decision)
    assert result.deleted == (saved[1],) and result.spared == (saved[0], saved[2])
    assert await check_whole(store, tmp_path / "loaded") >= {saved[0].key, saved[2].key}


async def test_what_does_not_verify_is_not_relied_on(tmp_path: Path) -> None:
    store = MemoryStore()
    saved = [await save(store, tmp_path / "s", number) for number in range(5)]
    await store.delete([f"{saved[4].key}/deep/b"])
    result = await prune_task(store)
    # The newest is damaged: the two before it are kept in its place, and it is left to its owner.
    assert result.deleted == (saved[0], saved[1]) and await check_shape(store, saved[3]) == []
    decision = await plan_prune(store, (await list_task(store, saved[0].pathspec)).records, KeepRules(last=1))
    [damaged] = [one for one in decision.judged if one.record == saved[4]]
    assert "does not verify: left to you" in damaged.reasons
    # What is damaged between plan and deletion: nothing goes.
    await store.delete([f"{saved[3].key}/a"])
    result = await prune_all(store, decision)
    assert result.deleted == () and result.spared == (saved[2],) and "missing" in result.problems[-1]


async def test_what_a_retry_could_begin_with_instead_of_what_is_damaged_stays(tmp_path: Path) -> None:
    store = MemoryStore()
    saved = [await save(store, tmp_path / "s", number) for number in range(3)]
    await store.delete([f"{saved[2].key}/deep/b"])
    # It is whole, and a retry does not begin with it.
    await save(store, tmp_path / "s", 3, latest=False)
    assert (await prune_task(store, KeepRules(last=1))).deleted == (saved[0],)


async def test_what_somebody_else_deletes_in_this_moment_is_not_called_damaged(tmp_path: Path) -> None:
    store = MemoryStore()
    saved = [await save(store, tmp_path / "s", number) for number in range(2)]
    decision = await plan_prune(store, (await list_task(store, saved[0].pathspec)).records, KeepRules(last=1))
    # In the middle of it, and when it is over.
    for other in (FaultyStore(store, [Fault("delete", key="*/artifact_metadata/*")]), store):
        with contextlib.suppress(StoreUnavailable):
            await delete_checkpoint(other, saved[1])
        assert await check_shape(store, saved[1])
        assert await prune(store, decision) == PruneResult(spared=(saved[0],))


async def test_what_another_task_has_saved_stays_also_where_its_record_is_in_the_list(tmp_path: Path) -> None:
    store = MemoryStore()
    mine = [await save(store, tmp_path / "s", number) for number in range(2)]
    others = [await save(store, tmp_path / "s", number, run="2") for number in range(3)]
    prefix = keys.task_records_prefix(mine[0].pathspec)
    for record in others:
        await store.put(f"{prefix}0.best.{record.version_id + 100}.metadata", Body.of(record.to_json()))
    # One that names the task, of a checkpoint that is another's.
    odd = dataclasses.replace(others[0], pathspec=mine[0].pathspec)
    await store.put(f"{prefix}0.best.200.metadata", Body.of(odd.to_json()))
    retention = Retention(store, KeepRules(last=1), lambda _: None)
    retention.committed(mine[1])
    await retention.finish()
    left = {info.key for info in await store.list("")}
    for record in others:
        assert await check_shape(store, record) == []
    assert not [key for key in left if mine[0].key in key or "/deletions/" in key]


async def test_a_mark_alone_deletes_nothing_that_the_rules_of_now_keep(tmp_path: Path) -> None:
    objects = MemoryObjects()
    saved = await save_some(MemoryStore(objects), tmp_path / "s", 4)
    # Stopped in time: the rules were wrong.
    with pytest.raises(StoreUnavailable):
        await prune_task(FaultyStore(MemoryStore(objects), [Fault("delete")]), KeepRules(last=1))
    store = MemoryStore(objects)
    assert [info for info in await store.list("") if "/deletions/" in info.key]
    assert await prune_task(store, KeepRules(last=4)) == PruneResult()
    assert await check_whole(store, tmp_path / "loaded") == {record.key for record in saved}
    # One that is doomed again goes, mark and all.
    assert (await prune_task(store, KeepRules(last=1))).deleted == tuple(saved[:3])
    assert not [info for info in await store.list("") if "/deletions/" in info.key]


async def test_a_pin_that_comes_too_late_takes_none_away_that_was_in_time(tmp_path: Path) -> None:
    store = MemoryStore()
    record = await save(store, tmp_path / "s", 0)
    await pin(store, record)
    await store.put(keys.deletion_key(record.key), Body.of(record.to_json()))
    with pytest.raises(CheckpointNotFound, match="is being deleted"):
        await pin(store, record)
    assert await pinned_keys_of(store, [record]) == {record.key}
    # Whoever wrote the mark may be about to delete: who only finds it must not take it back.
    assert not await delete_unless_wanted(store, record)
    assert await store.head(keys.deletion_key(record.key)) is not None and await check_shape(store, record) == []


async def test_a_group_that_a_node_could_not_load_counts_for_no_rule(tmp_path: Path) -> None:
    store, saved = SmallMemory(), list[CheckpointRecord]()
    for number in (1, 2, 3):
        nodes = gang(tmp_path, version=number * GROUP_STRIDE)
        for node in nodes:
            await node.store(store)
        saved.append((await list_task(store, nodes[0].record.pathspec)).records[0])
    await mark_damaged(store, saved[2])
    assert (await prune_task(store, KeepRules(last=1), saved[0].pathspec)).deleted == (saved[0],)


async def test_every_lack_is_named(tmp_path: Path) -> None:
    objects = MemoryObjects()
    store = MemoryStore(objects)
    files, tar = await save(store, tmp_path / "s", 0), await save(store, tmp_path / "s", 1, storage_format="tar")
    theirs = await put_of_peer(store, "files", "model", 10**17)
    their_tar = await put_of_peer(store, "tar", "model2", 10**17)
    whole = dict(objects.contents)
    for record in (files, tar, theirs, their_tar):
        assert await check_shape(store, record) == []

    async def lacks(record: CheckpointRecord, key: str, content: bytes | None = None) -> str:
        objects.contents = dict(whole)
        if content is None:
            del objects.contents[key]
        else:
            objects.write(key, content)
        return "; ".join(await check_shape(store, record))

    assert "record by key" in await lacks(files, keys.record_key(files.key)) and "missing" in await lacks(files, files.manifest)
    in_list = keys.task_record_key_of(files.key, files.pathspec)
    assert "in its task's list" in await lacks(files, in_list)
    assert "not JSON" in await lacks(files, in_list, b"{")
    assert f"is of {tar.key!r}" in await lacks(files, in_list, tar.to_json())
    assert "read a manifest" in await lacks(files, files.manifest, b"{}")
    assert "manifest is of" in await lacks(files, files.manifest, whole[tar.manifest][0])
    assert await lacks(files, f"{files.key}/a") == "its file 'a' is missing"
    assert await lacks(files, f"{files.key}/a", b"aa") == "its file 'a' should have 3 bytes, it has 2"
    assert await lacks(tar, tar.key) == "its archive is missing"
    assert "its archive should have" in await lacks(tar, tar.key, b"x" * 700)
    assert "1 with 2 are there" in await lacks(theirs, f"{theirs.key}/x")
    assert "its archive should have" in await lacks(their_tar, their_tar.key, b"x")
    objects.contents = dict(whole)


async def test_a_pointer_that_cant_be_read_stops_it(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(4):
        await save(store, tmp_path / "s", number)
    await store.put(TASK_POINTER, Body.of(b"{"))
    before = await store.list("")
    with pytest.raises(CheckpointDamaged):
        await prune_task(store)
    assert await store.list("") == before


async def test_what_a_pass_costs(tmp_path: Path) -> None:
    store, told = FaultyStore(MemoryStore()), list[object]()
    retention = Retention(store, LAST_TWO, told.append)

    async def costs(version: int, *, of_another: int | None = None) -> list[str]:
        """Save, and return what the pass after it asks of the store."""
        if of_another is not None:
            await save(store, tmp_path / "s", of_another, name="other")
        retention.committed(await save(store, tmp_path / "s", version))
        store.calls.clear()
        await retention.finish()
        return [operation for operation, _ in store.calls]

    # What was left by others, once; then the list, and each record once.
    assert await costs(0) == ["list", "list", "get"]
    assert await costs(1) == ["list", "get"]
    deleting = await costs(2, of_another=3)
    # Two pointers and the pins to decide, a look at what a retry begins with, which another process has saved; then a mark, looks
    # behind it, and what any deletion asks for.
    assert deleting[:6] == ["list", "get", "get", "get", "get", "list"] and len(deleting) < 35
    assert [event.key for event in told if isinstance(event, CheckpointPruned)] == [record_of(0).key]
    store.calls.clear()
    await retention.finish()
    assert store.calls == []


async def test_a_pass_that_has_no_time_left_says_so_and_is_finished_by_another(tmp_path: Path) -> None:
    objects = MemoryObjects()
    stalled = Fault("delete", key="*/artifact_metadata/*", error=None, gate=anyio.Event())
    told: list[object] = []
    retention = Retention(FaultyStore(MemoryStore(objects), [stalled]), LAST_TWO, told.append)
    for record in await save_some(MemoryStore(objects), tmp_path / "s", 3):
        retention.committed(record)
    retention.hold()
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(retention.run)
            await anyio.wait_all_tasks_blocked()
            assert told == []  # Uploads come first.
            retention.close()
            group.start_soon(retention.finish)
            await stalled.reached.wait()
            group.cancel_scope.cancel()
    assert [type(event) for event in told] == [CheckpointPruned, Notice]
    assert len((await list_task(MemoryStore(objects), identity().pathspec)).records) == 2
    another = Retention(MemoryStore(objects), LAST_TWO, told.append)
    another.committed(record_of(2))
    await another.finish()
    assert not [key for key in objects.contents if record_of(0).key.rpartition("/")[2] in key]
