"""What a node of a gang meets when it saves its part of a group: a full spool or disk, a store that does not answer."""

from __future__ import annotations

import errno
import os

import pytest

from ckpt_async import InvalidArgument, SnapshotFailed, open_for_child
from ckpt_async.testing.seaweed import SeaweedServer
from tests.engine.desk import DEADLINE_S, Desk, identity_of, paused


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_part_of_a_group_supersedes_nothing(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    """What other nodes don't complete nobody resumes from."""
    node = s3_desk.open(node=0, num_nodes=2, on_full="drop_oldest")
    with paused(seaweed):
        node.save(s3_desk.tree(), name="warm", latest=False)
        own = node.save(s3_desk.tree())

        def droppable(*, group: bool) -> list[str]:
            return [queued.entry for queued in node._ledger.droppable("mfchckpt", latest=True, group=group)]

        assert droppable(group=False) == [own.state.entry] and droppable(group=True) == []
        node.save(s3_desk.tree(), group=True)
        # Also a queued part is no later save of what is to be given up for another name.
        assert node._ledger.droppable("another", latest=True, group=False) == ()
    node.close(timeout_s=DEADLINE_S)


def test_a_node_that_could_not_count_a_group_save_makes_none_that_would_be_mixed_up(
    local_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [local_desk.open(node=node, num_nodes=2) for node in range(2)]
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_space)
        with pytest.raises(SnapshotFailed, match="space"):
            nodes[1].save(local_desk.tree(), group=True)
    nodes[0].save(local_desk.tree(), group=True)
    with pytest.raises(SnapshotFailed, match="could not be counted"):
        nodes[1].save(local_desk.tree(), group=True)
    nodes[1].save(local_desk.tree(), name="own")
    for node in nodes:
        node.close(timeout_s=DEADLINE_S)
    assert [record.name for record in local_desk.records()] == ["own"]


def test_a_look_at_the_groups_ends_with_the_time_of_the_flush(
    s3_desk: Desk, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckpt_async.flushing.LEAST_LOOK_S", 0.1)
    node = s3_desk.open(node=0, num_nodes=2)
    part = node.save(s3_desk.tree(), group=True).wait(DEADLINE_S)
    with paused(seaweed):
        node.flush(0.1)
    assert any("complete is not known" in line for line in s3_desk.said)
    node.close(timeout_s=DEADLINE_S)
    assert part.status == "incomplete"


def test_a_child_that_was_opened_for_a_save_by_itself_takes_no_number_of_a_group(local_desk: Desk) -> None:
    node = local_desk.open(node=0, num_nodes=2)
    child = open_for_child(identity_of(), local_desk.address, scratch_root=str(local_desk.scratch), node_index=0, num_nodes=2)
    with pytest.raises(InvalidArgument, match="by itself"):
        child.save(local_desk.tree(), group=True)
    child.close(timeout_s=DEADLINE_S)
    node.close(timeout_s=DEADLINE_S)
