"""Deleting a group save: nothing of any node is left, whoever stores or commits it meanwhile."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from ckpt_async.stores.contract import Store
from ckpt_async.testing.faulty_store import Fault, FaultyStore
from ckpt_async.transfer.deletion import delete_checkpoint
from ckpt_async.words.errors import CheckpointNotFound, StoreUnavailable
from ckpt_async.words.groups import DELETED, verdict_key
from tests.transfer.parts import ListLog, SmallMemory, send
from tests.transfer.test_gathering import DEADLINE_S, Node, check, gang

pytestmark = pytest.mark.anyio


async def check_deleted(store: Store, nodes: Sequence[Node]) -> None:
    """Nothing is left but a word that says so."""
    folder = nodes[0].record.group_folder
    assert [info.key for info in await store.list("")] == [verdict_key(folder)]
    assert await store.get(verdict_key(folder)) == DELETED


@pytest.mark.parametrize("after", [False, True])
async def test_deleting_a_group_leaves_nothing_of_any_node_also_after_a_failure_at_any_step(tmp_path: Path, after: bool) -> None:
    nodes = gang(tmp_path)
    for step in itertools.count(1):
        store, done = await stored(nodes), True
        try:
            await delete_checkpoint(FaultyStore(store, [Fault("*", calls={step}, after=after)]), nodes[0].record.key)
        except StoreUnavailable:
            done = False
            await check(store, nodes, tmp_path)
            if step % 2:
                # A node that died before it could note that its part is stored comes back first.
                await nodes[1].store_part(store)
                await check(store, nodes, tmp_path)
            with contextlib.suppress(CheckpointNotFound):
                await delete_checkpoint(store, nodes[0].record.key)
        await check_deleted(store, nodes)
        if done:
            break
    assert step > 15


async def stored(nodes: Sequence[Node]) -> SmallMemory:
    store = SmallMemory()
    for node in nodes:
        node.log = ListLog()
        await node.store(store)
    return store


async def stall_one(nodes: Sequence[Node], stalls: str, fault: Fault) -> bool:
    """Have a commit or the deletion stall, and others at the same group meanwhile; returns whether the fault was met."""
    store = await stored(nodes[:2])
    nodes[2].manifest = (await send(store, nodes[2].job)).manifest
    stalling, ended = FaultyStore(store, [fault]), anyio.Event()
    assert fault.gate is not None

    async def stall() -> None:
        if stalls == "commit":
            await nodes[2].store_part(stalling)
        else:
            await delete_checkpoint(stalling, nodes[0].record.key)
        ended.set()
        fault.reached.set()

    if stalls == "deletion":
        await nodes[2].store_part(store)
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(stall)
            await fault.reached.wait()
            met = not ended.is_set()
            # Of a worker that has died, or of another node that has seen all parts too.
            await nodes[2].store_part(store)
            if stalls == "commit":
                await delete_checkpoint(store, nodes[0].record.key)
            fault.gate.set()
    await check_deleted(store, nodes)
    # Nor does whoever comes late bring it back.
    assert not await nodes[1].store(store)
    await check_deleted(store, nodes)
    return met


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("stalls", ["commit", "deletion"])
async def test_a_group_that_is_deleted_while_it_is_committed_once_more_stays_so(tmp_path: Path, stalls: str, after: bool) -> None:
    nodes = gang(tmp_path)
    for step in itertools.count(1):
        fault = Fault("*", calls={step}, error=None, after=after, gate=anyio.Event())
        if not await stall_one(nodes, stalls, fault):
            break
    assert step > 12
