"""Group saves: three nodes with a spool and a worker each, over one store."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async import CheckpointDamaged, Checkpointer, CheckpointNotFound, InvalidArgument, SnapshotFailed, open_for_child
from ckpt_async.loading import Damages, Loading
from ckpt_async.spool.neighbours import is_of_child, spool_folder
from ckpt_async.spool.restoring import kept_saves
from ckpt_async.spool.spool import Spool
from ckpt_async.words import keys
from tests.engine.desk import DEADLINE_S, Desk, identity_of, read_tree, save_in_killed_child, wait_for

NODES = 3


def gang(desk: Desk, attempt: int = 0, *, run: str = "1", num_nodes: int = NODES) -> list[Checkpointer]:
    return [desk.open(attempt, run=run, node=node, num_nodes=num_nodes) for node in range(num_nodes)]


def shard(desk: Desk, node: int, step: int) -> Path:
    return desk.tree({"shard": b"%d of step %d" % (node, step)}, f"node-{node}")


def save_all(desk: Desk, nodes: list[Checkpointer], step: int, *, latest: bool = True) -> str:
    """One group save of all; returns its key. All parts are stored."""
    saved = [
        node.save(shard(desk, index, step), metadata={"step": step}, group=True, latest=latest) for index, node in enumerate(nodes)
    ]
    for reference in saved:
        reference.wait(DEADLINE_S)
    assert len({reference["key"] for reference in saved}) == 1
    return str(saved[0]["key"])


def resume_all(desk: Desk, nodes: list[Checkpointer], policy: str = "fresh") -> list[dict[str, bytes]]:
    found = []
    for node in nodes:
        target = desk.target()
        record = node.resume(policy, str(target))
        found.append(read_tree(target) if record is not None else {})
    return found


def close_all(nodes: list[Checkpointer]) -> None:
    for node in nodes:
        node.close(timeout_s=DEADLINE_S)


def test_a_gang_saves_together_and_goes_on_from_the_same_save(local_desk: Desk) -> None:
    desk = local_desk
    nodes = gang(desk)
    # Each node saves by itself as often as it likes; that changes nothing in what the group saves are called.
    nodes[1].save(shard(desk, 1, 0), name="own").wait(DEADLINE_S)
    first = [nodes[node].save(shard(desk, node, 1), group=True) for node in (2, 0)]
    for reference in first:
        assert reference.wait(DEADLINE_S).status == "incomplete" and not reference.done()
    nodes[2].flush()
    assert first[0].status == "incomplete"
    with pytest.raises(CheckpointNotFound, match="other nodes"):
        nodes[2].load(first[0], str(desk.target()))
    assert [record.name for record in desk.records()] == ["own"]

    last = nodes[1].save(shard(desk, 1, 1), group=True)
    assert last.wait(DEADLINE_S).done()
    nodes[2].flush()
    assert first[0].done() and not first[1].done(), "a node looks when it flushes"
    assert desk.content(last) == {f"node-{node}/shard": b"%d of step 1" % node for node in range(NODES)}
    part = desk.target()
    nodes[0].load(last, str(part), node=2)
    assert read_tree(part) == {"shard": b"2 of step 1"}

    second = save_all(desk, nodes, 2)
    # A part that never gets company: nobody goes on from it.
    nodes[0].save(shard(desk, 0, 3), group=True)
    # Nor from what one node has saved since.
    nodes[1].save(shard(desk, 1, 4)).wait(DEADLINE_S)
    newest = desk.reader().latest(identity_of().pathspec)
    assert newest is not None and newest.node_index == 1 and not newest.group
    close_all(nodes)
    assert desk.is_clean()
    assert [record.key for record in desk.records() if record.group] == [second, last["key"]]

    retried = gang(desk, 1)
    assert resume_all(desk, retried) == [{"shard": b"%d of step 2" % node} for node in range(NODES)]
    left = Path(desk.address.url, keys.data_key(identity_of(), "mfchckpt", 3 * 10**9))
    assert left.is_dir()
    save_all(desk, retried, 4, latest=False)
    assert left.is_dir(), "where a retry would not begin with the new one, an older one may still become whole"
    save_all(desk, retried, 5)
    assert not left.exists(), "what never became whole goes with the first group save of a later attempt to begin with"
    close_all(retried)
    # A run of another size can't go on from it by itself.
    smaller = gang(desk, 0, run="2", num_nodes=2)
    with pytest.raises(InvalidArgument, match="3 nodes have saved it, and this gang has 2"):
        smaller[0].resume("eager", str(desk.target()))
    close_all(smaller)
    same = gang(desk, 0, run="3")
    assert resume_all(desk, same, "eager") == [{"shard": b"%d of step 5" % node} for node in range(NODES)]
    close_all(same)


def test_nodes_that_save_by_themselves_go_on_from_their_own(local_desk: Desk) -> None:
    nodes = gang(local_desk)
    saved = [node.save(shard(local_desk, index, step)) for step in range(3) for index, node in enumerate(nodes[:2])]
    close_all(nodes)
    assert len({reference["key"] for reference in saved}) == len(local_desk.records()) == 6
    retried = gang(local_desk, 1)
    # A node that has saved nothing begins with the newest of any.
    assert resume_all(local_desk, retried) == [{"shard": b"0 of step 2"}, {"shard": b"1 of step 2"}, {"shard": b"1 of step 2"}]
    close_all(retried)


def test_a_call_that_fails_on_one_node_counts(thread_desk: Desk) -> None:
    nodes = gang(thread_desk)
    with pytest.raises((InvalidArgument, SnapshotFailed)):
        nodes[1].save(thread_desk.folder / "missing", group=True)
    for node in (0, 2):
        nodes[node].save(shard(thread_desk, node, 1), group=True)
    with pytest.raises(InvalidArgument, match="one archive"):
        nodes[0].save(shard(thread_desk, 0, 2), group=True, storage_format="tar")
    for node in (1, 2):
        nodes[node].save(shard(thread_desk, node, 2), group=True)
    key = save_all(thread_desk, nodes, 3)
    close_all(nodes)
    assert [record.key for record in thread_desk.records()] == [key]
    assert thread_desk.content(key) == {f"node-{node}/shard": b"%d of step 3" % node for node in range(NODES)}


def test_a_node_that_dies_leaves_nothing_visible_until_its_part_is_there(desk: Desk) -> None:
    nodes = gang(desk)
    for node in (0, 1):
        nodes[node].save(shard(desk, node, 1), group=True).wait(DEADLINE_S)
    # The third one saves in a child process, which dies before its part is stored.
    save_in_killed_child(identity_of(), desk.address, str(desk.scratch), shard(desk, 2, 1), "mfchckpt", node=2, num_nodes=NODES)
    assert desk.records() == []
    nodes[2].flush()
    assert desk.content(desk.records()[0]) == {f"node-{node}/shard": b"%d of step 1" % node for node in range(NODES)}
    child = open_for_child(
        identity_of(), desk.address, scratch_root=str(desk.scratch), node_index=2, num_nodes=NODES, group=True, say=desk.said.append
    )
    saved = [child.save(shard(desk, 2, 2), group=True)]
    child.close(timeout_s=DEADLINE_S)
    saved += [nodes[node].save(shard(desk, node, 2), group=True) for node in (0, 1)]
    close_all(nodes)
    assert len({reference["key"] for reference in saved}) == 1 and len(desk.records()) == 2
    wait_for(desk.is_clean, "no spool is left")


def test_a_damaged_part_fails_the_attempt_and_the_next_one_takes_the_group_before(thread_desk: Desk) -> None:
    nodes = gang(thread_desk)
    keys_saved = [save_all(thread_desk, nodes, step) for step in (1, 2)]
    close_all(nodes)
    Path(thread_desk.address.url, keys_saved[1], "node-1", "shard").write_bytes(b"something else")
    retried = gang(thread_desk, 1)
    assert retried[0].resume("fresh", str(thread_desk.target())) is not None
    with pytest.raises(CheckpointDamaged, match="group save before it"):
        retried[1].resume("fresh", str(thread_desk.target()))
    close_all(retried)
    again = gang(thread_desk, 2)
    assert resume_all(thread_desk, again) == [{"shard": b"%d of step 1" % node} for node in range(NODES)]
    close_all(again)


def test_what_has_not_changed_in_a_part_is_not_sent_again(s3_desk: Desk) -> None:
    nodes, big = gang(s3_desk), b"w" * (2 * 1024 * 1024)
    for step in range(2):
        for index, node in enumerate(nodes):
            folder = s3_desk.tree({"frozen": big, "shard": b"%d %d" % (index, step)}, f"node-{index}")
            node.save(folder, group=True).wait(DEADLINE_S)
    assert [node.stats.copied_bytes for node in nodes] == [len(big)] * NODES
    close_all(nodes)
    retried = gang(s3_desk, 1)
    resume_all(s3_desk, retried)
    for index, node in enumerate(retried):
        node.save(s3_desk.folder / f"node-{index}", group=True).wait(DEADLINE_S)
    assert [node.stats.copied_bytes for node in retried] == [len(big)] * NODES
    close_all(retried)


def test_a_gang_of_one_saves_as_usual(thread_desk: Desk) -> None:
    alone = thread_desk.open()
    reference = alone.save(shard(thread_desk, 0, 1), group=True).wait(DEADLINE_S)
    alone.close(timeout_s=DEADLINE_S)
    assert reference.done() and reference["version_id"] == 0 and "group" not in reference
    target = thread_desk.target()
    thread_desk.reader().load(reference, str(target), node=0)
    assert read_tree(target) == thread_desk.content(reference) == {"shard": b"0 of step 1"}


def test_eager_takes_what_the_task_has_before_what_other_runs_have(thread_desk: Desk) -> None:
    nodes = gang(thread_desk)
    for index, node in enumerate(nodes):
        node.save(shard(thread_desk, index, 1))
    close_all(nodes)
    # In the next run only node 0 saves; a retry of it begins everywhere with that.
    second = gang(thread_desk, run="2")
    assert resume_all(thread_desk, second, "eager") == [{"shard": b"%d of step 1" % node} for node in range(NODES)]
    second[0].save(shard(thread_desk, 0, 2))
    close_all(second)
    retried = gang(thread_desk, 1, run="2")
    assert resume_all(thread_desk, retried, "eager") == [{"shard": b"0 of step 2"}] * NODES
    close_all(retried)


def test_no_attempt_begins_with_nothing_where_the_only_group_is_damaged(thread_desk: Desk) -> None:
    nodes = gang(thread_desk)
    key = save_all(thread_desk, nodes, 1)
    close_all(nodes)
    Path(thread_desk.address.url, key, "node-1", "shard").write_bytes(b"something else")
    retried = gang(thread_desk, 1)
    with pytest.raises(CheckpointDamaged, match="shard"):
        retried[1].resume("fresh", str(thread_desk.target()))
    close_all(retried)
    for attempt in (2, 3):
        again = gang(thread_desk, attempt)
        thread_desk.said.clear()
        for node in again:
            with pytest.raises(CheckpointDamaged, match=r"a node could not load its part.*by hand"):
                node.resume("fresh", str(thread_desk.target()))
        assert len(thread_desk.said) == NODES and all(key in line for line in thread_desk.said)
        # Who has something of its own begins with that.
        if attempt == 2:
            again[1].save(shard(thread_desk, 1, 2), latest=False)
        close_all(again)
    again = gang(thread_desk, 4)
    again[1].save(shard(thread_desk, 1, 2))
    close_all(again)
    again = gang(thread_desk, 5)
    assert resume_all(thread_desk, again) == [{"shard": b"1 of step 2"}] * NODES
    close_all(again)
    again = gang(thread_desk, 6)
    with pytest.raises(CheckpointDamaged):
        again[0].resume("fresh", str(thread_desk.target()), strict=True)
    close_all(again)


def test_a_gang_that_has_shrunk_to_one_node_takes_no_part_for_the_whole(thread_desk: Desk) -> None:
    nodes = [thread_desk.open(node=node, num_nodes=NODES, keep_local=2) for node in range(NODES)]
    key = save_all(thread_desk, nodes, 1)
    for node in nodes:
        node.close(timeout_s=DEADLINE_S, retried=True)
    # The whole is not what the node has kept of it, nor is another node's part.
    (whole,) = thread_desk.records()
    kept = kept_saves(spool_folder(str(thread_desk.scratch), thread_desk.address, identity_of(1), 0))
    assert [one.record.key for one in kept] == [key]
    damages = Damages(thread_desk.said.append, strict=True)
    for wanted in (None, 2):
        target = thread_desk.target()
        assert Loading(thread_desk.reader(), str(target), damages, kept).stored(whole, wanted)
        assert read_tree(target).keys() == ({"shard"} if wanted else {f"node-{node}/shard" for node in range(NODES)})
        assert wanted is None or read_tree(target)["shard"] == b"2 of step 1"
    retried = gang(thread_desk, 1)
    assert resume_all(thread_desk, retried) == [{"shard": b"%d of step 1" % node} for node in range(NODES)]
    close_all(retried)
    for attempt, policy, run in ((2, "fresh", "1"), (0, "eager", "2")):
        alone = thread_desk.open(attempt, run=run)
        target = thread_desk.target()
        with pytest.raises(InvalidArgument, match="3 nodes have saved it, and this gang has 1"):
            alone.resume(policy, str(target))
        assert not target.exists()
        alone.close(timeout_s=DEADLINE_S)


@contextlib.contextmanager
def left_by_node_0(desk: Desk, *, run: str, num_nodes: int) -> Iterator[None]:
    """Let a save wait on this machine, which nobody uploads meanwhile: of a gang, a part of a group save."""
    task = desk.open(run=run, num_nodes=num_nodes)
    folder, scratch = shard(desk, 0, 2), str(desk.scratch)
    save_in_killed_child(identity_of(run=run), desk.address, scratch, folder, "left", num_nodes=num_nodes)
    (child,) = [Path(folder) for folder in glob.glob(f"{desk.scratch}/Flow-{run}-*/*") if is_of_child(os.path.basename(folder))]
    spool = Spool(str(child))
    assert spool.worker_lock.try_acquire()
    try:
        yield
    finally:
        spool.worker_lock.release()
        task.close(timeout_s=DEADLINE_S)


def test_a_part_that_waits_on_this_machine_is_told_and_not_begun_with(thread_desk: Desk) -> None:
    with left_by_node_0(thread_desk, run="1", num_nodes=NODES):
        retried = gang(thread_desk, 1)
        assert resume_all(thread_desk, retried) == [{}] * NODES
        waiting = keys.data_key(identity_of(), "left", 10**9)
        told = [line for line in thread_desk.said if waiting in line]
        assert len(told) == 1 and "waits on this machine" in told[0]
    close_all(retried)


def test_what_an_older_version_saved_in_a_gang_is_nobody_s_own(thread_desk: Desk) -> None:
    nodes = gang(thread_desk)
    for index, node in enumerate(nodes):
        node.save(shard(thread_desk, index, 1)).wait(DEADLINE_S)
    close_all(nodes)
    for path in Path(thread_desk.address.url).rglob("*"):
        if path.is_file() and (path.suffix == ".metadata" or path.name == "latest"):
            record = json.loads(path.read_text())
            new = ("num_nodes", "node_index", "group", "crc32")
            path.write_text(json.dumps({name: value for name, value in record.items() if name not in new}))
    retried = gang(thread_desk, 1)
    assert resume_all(thread_desk, retried) == [{"shard": b"2 of step 1"}] * NODES
    retried[1].save(shard(thread_desk, 1, 2))
    close_all(retried)
    again = gang(thread_desk, 2)
    assert resume_all(thread_desk, again) == [{"shard": b"1 of step 2"}] * NODES
    close_all(again)


def test_eager_takes_what_lies_here_before_another_run_s_group(thread_desk: Desk) -> None:
    nodes = gang(thread_desk)
    save_all(thread_desk, nodes, 1)
    close_all(nodes)
    with left_by_node_0(thread_desk, run="2", num_nodes=1):
        retried = gang(thread_desk, 1, run="2")
        found = resume_all(thread_desk, retried, "eager")
        assert found == [{"shard": b"0 of step 2"}, {"shard": b"1 of step 1"}, {"shard": b"2 of step 1"}]
    close_all(retried)
