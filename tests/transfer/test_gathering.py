from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import Body, ObjectInfo, Store
from ckpt_async.stores.local.store import LocalStore
from ckpt_async.stores.memory import MemoryObjects
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.catalog import latest_of, list_task, resolve
from ckpt_async.transfer.download import download
from ckpt_async.transfer.gathering import give_up_earlier, store_part
from ckpt_async.transfer.group_catalog import agreed_group, mark_damaged, part_of
from ckpt_async.transfer.upload import UploadJob
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument, StoreUnavailable
from ckpt_async.words.groups import GROUP_STRIDE, groups_folder, part_key, verdict_key
from ckpt_async.words.records import CheckpointRecord
from tests.transfer.parts import FILES, ListLog, SmallMemory, content_of, identity, job_of, record_of, save_whole, send

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0
COUNT = itertools.count()
NODES = 3
POINTER = keys.task_latest_key(identity().pathspec)


class Node:
    """One node's part of a group save: its files, and how it is stored, as often as one likes."""

    def __init__(self, folder: Path, index: int, version: int = GROUP_STRIDE, attempt: int = 0, num_nodes: int = NODES) -> None:
        self.files = {**FILES, "rank": b"%d" % index}
        about = {"version": version, "attempt": attempt, "now_unix_ns": 100 + index}
        job = job_of(folder / f"{attempt}-{version}-{index}", self.files, **about)
        self.record = dataclasses.replace(job.record, num_nodes=num_nodes, node_index=index, group=True)
        self.identity = identity(attempt=attempt)
        self.job = UploadJob(self.record.part(index), job.files, job.directories)
        self.log = ListLog()

    async def store(self, store: Store) -> bool:
        self.manifest = (await send(store, self.job, self.log)).manifest
        return await self.store_part(store)

    async def store_part(self, store: Store) -> bool:
        """All but the upload; returns whether the whole is visible."""
        return await store_part(store, self.identity, self.record, self.manifest) is not None


class Careless(SmallMemory):
    """Ignores conditions, without a word."""

    async def put(
        self, key: str, body: Body, *, if_match: str | None = None, if_absent: bool = False, durable: bool = True
    ) -> ObjectInfo:
        return await super().put(key, body)


def gang(folder: Path, **about: int) -> list[Node]:
    return [Node(folder, index, **about) for index in range(NODES)]


async def check(store: Store, nodes: Sequence[Node], folder: Path) -> CheckpointRecord | None:
    """Whatever can be seen is whole; returns what is."""
    records = (await list_task(store, identity().pathspec)).records
    assert (await latest_of(store, POINTER)) in (None, *records)
    for number, record in enumerate(records):
        target = folder / f"checked-{next(COUNT)}-{number}"
        await download(store, record, str(target))
        expected = {f"node-{node.record.node_index}/{path}": text for node in nodes for path, text in node.files.items()}
        assert content_of(target) == expected
    return records[0] if records else None


async def test_a_group_is_visible_with_its_last_part_and_loaded_whole_or_by_node(tmp_path: Path) -> None:
    nodes, store = gang(tmp_path), SmallMemory()
    for node in (nodes[2], nodes[0]):
        assert not await node.store(store)
        assert await check(store, nodes, tmp_path) is None
        with pytest.raises(CheckpointNotFound, match="other nodes have not stored"):
            await resolve(store, node.record.key)
    assert await nodes[1].store(store)
    whole = await check(store, nodes, tmp_path)
    assert whole is not None and (whole.key, whole.node_index, whole.num_nodes) == (nodes[0].record.key, -1, NODES)
    assert whole.size_bytes == sum(node.record.size_bytes for node in nodes) and whole.saved_at_unix_ns == 102
    assert await latest_of(store, POINTER) == whole == await resolve(store, nodes[2].record.key)
    await download(store, part_of(whole, 1), str(tmp_path / "one"))
    assert content_of(tmp_path / "one") == nodes[1].files
    assert (tmp_path / "one" / "hollow" / "inner").is_dir()
    for node in (3, -1, True):
        with pytest.raises(InvalidArgument, match="no part of node"):
            part_of(whole, node)
    alone = record_of(0)
    assert part_of(alone, 0) is alone
    with pytest.raises(InvalidArgument, match="no group save"):
        part_of(alone, 1)


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_at_any_step_leaves_nothing_half_and_can_be_repeated(tmp_path: Path, after: bool) -> None:
    nodes = gang(tmp_path)
    for step in itertools.count(1):
        objects = MemoryObjects()
        store = SmallMemory(objects)
        for node in nodes:
            node.log = ListLog()
        await nodes[0].store(store)
        await nodes[1].store(store)
        nodes[2].manifest = (await send(store, nodes[2].job)).manifest
        try:
            await nodes[2].store_part(FaultyStore(store, [Fault("*", calls={step}, after=after)]))
            done = True
        except StoreUnavailable:
            done = False
        await check(store, nodes, tmp_path)
        assert await nodes[2].store_part(store)
        assert await latest_of(store, POINTER) == await check(store, nodes, tmp_path) is not None
        if done:
            break
    assert step > 12


@pytest.fixture(params=["memory", "local"])
def race_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return SmallMemory() if request.param == "memory" else LocalStore(str(tmp_path / "store"))


async def test_nodes_that_complete_it_in_the_same_moment_commit_the_same(race_store: Store, tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    nodes = gang(tmp_path / "nodes")
    # Each looks at the parts only when all have noted theirs.
    gate = anyio.Event()
    looks = [Fault("list", key="*/groups/*", error=None, gate=gate) for _ in nodes]
    outcomes: list[bool] = []

    async def run(node: Node, look: Fault) -> None:
        outcomes.append(await node.store(FaultyStore(race_store, [look])))

    async with race_store:
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                for node, look in zip(nodes, looks, strict=True):
                    group.start_soon(run, node, look)
                for look in looks:
                    await look.reached.wait()
                gate.set()
        assert outcomes == [True] * NODES
        assert await check(race_store, nodes, tmp_path / "nodes") is not None
        # And whoever comes again, because it died before it could note that, changes nothing.
        before = {info.key: info.etag for info in await race_store.list("")}
        assert await nodes[1].store(race_store)
        assert {info.key for info in await race_store.list("")} == set(before)


async def test_what_never_became_whole_is_deleted_by_the_next_attempt_and_stays_so(tmp_path: Path) -> None:
    store = SmallMemory()
    old, lost, newer = gang(tmp_path), gang(tmp_path, version=2 * GROUP_STRIDE), gang(tmp_path, attempt=1)
    alone = await save_whole(store, job_of(tmp_path / "alone", version=4))
    for node in (*old, *lost[:2]):
        await node.store(store)
    for node in newer:
        await node.store(store)
    before = {info.key for info in await store.list("")}
    await give_up_earlier(store, identity(attempt=1))
    deleted = before - {info.key for info in await store.list("")}
    data = lost[0].record.key + "/"
    assert len(deleted) == 2 * len(lost[0].files) + 2 and sum(key.startswith(data) for key in deleted) == len(deleted) - 2
    # The part of the last node comes after all: its worker has outlived its attempt.
    assert not await lost[2].store(store)
    assert await store.list(data) == []
    records = (await list_task(store, identity().pathspec)).records
    assert [record.key for record in records] == [newer[0].record.key, old[0].record.key, alone.key]
    # What is decided on can't be given up, whoever is in the middle of it.
    committing = gang(tmp_path, version=3 * GROUP_STRIDE)
    for node in committing[:2]:
        await node.store(store)
    with pytest.raises(StoreUnavailable):
        await committing[2].store(FaultyStore(store, [Fault("put", key="*/manifests/*")]))
    await give_up_earlier(store, identity(attempt=1))
    assert await committing[2].store_part(store)


async def test_what_is_whole_or_still_to_come_is_not_given_up_also_where_a_store_ignores_conditions(tmp_path: Path) -> None:
    store = Careless()
    old, lost, newer = gang(tmp_path), gang(tmp_path, version=2 * GROUP_STRIDE), gang(tmp_path, attempt=1)
    coming = gang(tmp_path, attempt=1, version=2 * GROUP_STRIDE)
    for node in (*old, *lost[1:], *newer, *coming[1:]):
        await node.store(store)
    await store.put(f"{groups_folder(identity().pathspec)}0.~FF.{GROUP_STRIDE}/000000.json", Body.of(b"of nobody"))
    asked = FaultyStore(store)
    await give_up_earlier(asked, identity(attempt=1))
    assert not await store.list(lost[0].record.key + "/")
    assert [key for operation, key in asked.calls if operation == "put"] == [verdict_key(lost[0].record.group_folder)]
    for number, group in enumerate((old, newer)):
        await download(store, await resolve(store, group[0].record.key), str(tmp_path / f"whole-{number}"))
    assert await coming[0].store(store)


async def test_a_whole_of_which_one_part_is_not_to_be_resumed_from_is_not_the_latest(tmp_path: Path) -> None:
    store, nodes = SmallMemory(), gang(tmp_path)
    nodes[1].record = dataclasses.replace(nodes[1].record, latest=False)
    for node in nodes:
        await node.store(store)
    assert not (await resolve(store, nodes[0].record.key)).latest
    assert await latest_of(store, POINTER) is None
    assert await agreed_group(store, identity(attempt=1), "fresh") is None


async def test_a_part_that_is_another_s_or_damaged_is_named(tmp_path: Path) -> None:
    for damage in ("node", "key", "text", "files", "verdict"):
        store = SmallMemory()
        nodes, others = gang(tmp_path), gang(tmp_path, version=2 * GROUP_STRIDE)
        await nodes[0].store(store)
        await others[0].store(store)
        key = part_key(nodes[0].record.group_folder, 0)
        text = await store.get(key)
        if damage == "node":
            await store.put(part_key(nodes[0].record.group_folder, 1), Body.of(text))
        elif damage == "key":
            await store.put(key, Body.of(await store.get(part_key(others[0].record.group_folder, 0))))
        elif damage == "verdict":
            await store.put(verdict_key(nodes[0].record.group_folder), Body.of(b"comm"))
        elif damage == "text":
            await store.put(key, Body.of(text.replace(b'"rank"', b'"r/nk"')))
        else:
            other = json.loads(await store.get(part_key(others[0].record.group_folder, 0)))
            await store.put(key, Body.of(json.dumps({**other, "record": json.loads(text)["record"]}).encode()))
        if damage not in ("node", "verdict"):
            await nodes[1].store(store)
        with pytest.raises(CheckpointDamaged):
            await nodes[2].store(store)
        assert (await list_task(store, identity().pathspec)).records == ()


async def test_a_gang_agrees_on_one_group_whatever_becomes_visible_meanwhile(tmp_path: Path) -> None:
    store = SmallMemory()
    first, second = gang(tmp_path), gang(tmp_path, version=2 * GROUP_STRIDE)
    assert await agreed_group(store, identity(attempt=0), "fresh") is None
    for node in first:
        await node.store(store)
    # A later save of one node alone is not what all can go on from.
    await save_whole(store, job_of(tmp_path / "alone", version=GROUP_STRIDE + 4))
    whole = (await list_task(store, identity().pathspec)).records[1]
    assert await agreed_group(store, identity(attempt=1), "fresh") == whole
    for node in second:
        await node.store(store)
    assert await agreed_group(store, identity(attempt=1), "fresh") == whole
    assert await agreed_group(store, identity(attempt=0), "fresh") is None
    newest = await agreed_group(store, identity(attempt=2), "fresh")
    assert newest is not None and newest.key == second[0].record.key
    await mark_damaged(store, newest)
    assert await agreed_group(store, identity(attempt=3), "fresh") == whole
    assert await agreed_group(store, identity(run="9"), "fresh") is None
    assert await agreed_group(store, identity(run="8"), "eager") == whole


async def test_of_nodes_that_ask_in_the_same_moment_one_decides(tmp_path: Path) -> None:
    store, nodes = SmallMemory(), gang(tmp_path)
    # One has seen nothing when the group becomes whole, the other one has seen it; then both write.
    early = FaultyStore(store, [blind := Fault("put", key="*.resume", error=None, gate=anyio.Event())])
    agreed: list[CheckpointRecord | None] = []

    async def ask(asked: Store) -> None:
        agreed.append(await agreed_group(asked, identity(attempt=1), "fresh"))

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, early)
            await blind.reached.wait()
            for node in nodes:
                await node.store(store)
            await ask(store)
            assert blind.gate is not None
            blind.gate.set()
    assert agreed[0] == agreed[1] is not None and agreed[0].key == nodes[0].record.key
    # An answer that was lost does not change what was decided.
    lost = FaultyStore(store, [Fault("put", key="*.resume", calls={1}, after=True)])
    with pytest.raises(StoreUnavailable):
        await agreed_group(lost, identity(attempt=2), "fresh")
    assert await agreed_group(store, identity(attempt=2), "fresh") == agreed[0]


async def test_where_a_store_ignores_conditions_what_is_written_last_is_what_all_take(tmp_path: Path) -> None:
    store, nodes = Careless(), gang(tmp_path)
    blind = Fault("put", key="*.resume", error=None, gate=anyio.Event())
    seeing = Fault("put", key="*.resume", error=None, gate=anyio.Event(), after=True)
    agreed: list[CheckpointRecord | None] = []
    answered = anyio.Event()

    async def ask(fault: Fault) -> None:
        agreed.append(await agreed_group(FaultyStore(store, [fault]), identity(attempt=1), "fresh"))
        answered.set()

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, blind)
            await blind.reached.wait()
            for node in nodes:
                await node.store(store)
            group.start_soon(ask, seeing)
            await seeing.reached.wait()
            assert blind.gate is not None and seeing.gate is not None
            blind.gate.set()
            await answered.wait()
            seeing.gate.set()
    assert agreed == [None, None]
