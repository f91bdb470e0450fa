"""Sources: what holds something that is not saved yet is asked to save it before a flush and before the end."""

from __future__ import annotations

import time

import pytest

from ckpt_async import Checkpointer, CheckpointError, InvalidArgument, SnapshotFailed
from tests.engine.desk import DEADLINE_S, Desk


class Holder:
    """Holds saves, each of some files, until it is flushed; may fail instead."""

    def __init__(self, desk: Desk, checkpointer: Checkpointer) -> None:
        self.desk = desk
        self.checkpointer = checkpointer
        self.held = ["first"]
        self.fails_with: Exception | None = None
        self.left_s = 0.0

    def flush(self, deadline_s: float) -> None:
        self.left_s = deadline_s - time.monotonic()
        if self.fails_with is not None:
            raise self.fails_with
        while self.held:
            self.checkpointer.save(self.desk.tree(), name=self.held.pop())


def test_what_sources_hold_is_saved_before_a_flush_and_before_the_end(thread_desk: Desk) -> None:
    checkpointer = thread_desk.open()
    holder = Holder(thread_desk, checkpointer)
    checkpointer.add_source(holder)
    checkpointer.flush(DEADLINE_S / 2)
    assert [record.name for record in thread_desk.records()] == ["first"]
    assert 0 < holder.left_s <= DEADLINE_S / 2
    holder.held.append("second")
    checkpointer.close(timeout_s=DEADLINE_S)
    assert [record.name for record in thread_desk.records()] == ["second", "first"]
    checkpointer.close(timeout_s=DEADLINE_S)
    with pytest.raises(InvalidArgument, match="closed"):
        checkpointer.add_source(holder)


def test_a_source_that_fails_keeps_nothing_else_from_the_store(thread_desk: Desk) -> None:
    checkpointer = thread_desk.open()
    failing, holder = Holder(thread_desk, checkpointer), Holder(thread_desk, checkpointer)
    failing.fails_with = SnapshotFailed("write a state", cause="no room")
    checkpointer.add_source(failing)
    checkpointer.add_source(holder)
    with pytest.raises(SnapshotFailed, match="no room"):
        checkpointer.flush()
    assert [record.name for record in thread_desk.records()] == ["first"]
    holder.held.append("second")
    with pytest.raises(CheckpointError, match="no room"):
        checkpointer.close(timeout_s=DEADLINE_S)
    assert [record.name for record in thread_desk.records()] == ["second", "first"]
    assert sum("no room" in line for line in thread_desk.said) == 2
    assert thread_desk.is_clean(), "all the same, the worker has ended and the spool is gone"
