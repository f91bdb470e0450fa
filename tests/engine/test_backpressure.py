"""A full spool: save() waits, gives up an older save, or is refused; never silently."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from ckpt_async import Checkpointer, CheckpointNotStored, CheckpointReference, SaveRefused, SpoolDamaged
from ckpt_async.disk.scan import scan
from ckpt_async.progress import compare_with_waiting
from ckpt_async.spool.entry import Entry
from ckpt_async.spool.spool import Spool
from ckpt_async.spool.states import EntryState
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.events import EntryStarted
from tests.engine.desk import DEADLINE_S, Desk, paused, wait_for


def save_in_thread(desk: Desk, checkpointer: Checkpointer) -> tuple[threading.Thread, list[CheckpointReference]]:
    done: list[CheckpointReference] = []
    thread = threading.Thread(target=lambda: done.append(checkpointer.save(desk.tree())))
    thread.start()
    return thread, done


@pytest.mark.parametrize("limit", [{"max_pending": 2}, {"max_pending_bytes": 20}])
def test_save_waits_for_room_and_counts_it(s3_desk: Desk, seaweed: SeaweedServer, limit: dict[str, int]) -> None:
    checkpointer = s3_desk.open(**limit)
    with paused(seaweed):
        first = [checkpointer.save(s3_desk.tree()) for _ in range(2)]
        thread, third = save_in_thread(s3_desk, checkpointer)
        wait_for(lambda: any("save() waits" in line for line in s3_desk.said), "the third save waits, and says so")
        assert checkpointer.pending.saves == 2 and not third
    thread.join(DEADLINE_S)
    assert third and not thread.is_alive()
    checkpointer.close(timeout_s=DEADLINE_S)
    assert all(reference.done() for reference in (*first, *third))
    stats = checkpointer.stats
    assert stats.committed == 3
    assert 0 < stats.waited_s <= stats.blocked_s


def test_where_each_save_waits_there_is_no_line_for_each(
    s3_desk: Desk, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckpt_async.gate.LINE_EVERY_S", DEADLINE_S)
    checkpointer = s3_desk.open(max_pending=1)
    with paused(seaweed):
        checkpointer.save(s3_desk.tree())
        threads = [save_in_thread(s3_desk, checkpointer)[0] for _ in range(3)]
        wait_for(lambda: any("save() waits" in line for line in s3_desk.said), "they wait, one after the other")
    for thread in threads:
        thread.join(DEADLINE_S)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert checkpointer.stats.committed == 4
    assert sum("save() waits" in line for line in s3_desk.said) == 1


def test_a_save_that_nobody_called_for_holds_up_no_training(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    """It waits for room in a thread of its own, as that of watch mode does."""
    checkpointer = s3_desk.open(max_pending=1)
    with paused(seaweed):
        checkpointer.save(s3_desk.tree())
        thread = threading.Thread(target=checkpointer.save_as_seen, args=(scan(s3_desk.tree()),))
        thread.start()
        wait_for(lambda: any("save() waits" in line for line in s3_desk.said), "it waits, and says so")
    thread.join(DEADLINE_S)
    checkpointer.close(timeout_s=DEADLINE_S)
    stats = checkpointer.stats
    assert stats.committed == 2 and stats.waited_s == 0
    assert compare_with_waiting(stats).waiting_s > 0


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_drop_oldest_gives_up_what_is_superseded_and_not_begun(s3_desk: Desk, seaweed: SeaweedServer, worker: str) -> None:
    s3_desk.worker = worker
    checkpointer = s3_desk.open(max_pending=3, on_full="drop_oldest")
    with paused(seaweed):
        begun = checkpointer.save(s3_desk.tree({"step": b"0"}))
        wait_for(s3_desk.happened(EntryStarted), "the first upload has begun")
        other = checkpointer.save(s3_desk.tree({"step": b"best"}), name="best")
        dropped = checkpointer.save(s3_desk.tree({"step": b"1"}))
        kept = checkpointer.save(s3_desk.tree({"step": b"2"}))
        assert dropped.status == "dropped" and "max_pending is 3" in dropped.reason
        with pytest.raises(CheckpointNotStored, match="given up for a later save"):
            dropped.wait()
        told = [line for line in s3_desk.said if "was dropped" in line]
        assert len(told) == 1 and "Save 2" in told[0]
        assert checkpointer.stats.dropped == 1 and checkpointer.pending.saves == 3
    checkpointer.close(timeout_s=DEADLINE_S)
    assert [reference.status for reference in (begun, other, dropped, kept)] == ["committed", "committed", "dropped", "committed"]
    assert sorted(record.version_id for record in s3_desk.records()) == [0, 1, 3]
    assert s3_desk.is_clean()


@pytest.mark.parametrize("on_full", ["block", "drop_oldest"])
def test_save_waits_while_too_much_progress_is_at_risk(s3_desk: Desk, seaweed: SeaweedServer, on_full: str) -> None:
    checkpointer = s3_desk.open(max_lag_s=0.001, on_full=on_full)
    with paused(seaweed):
        checkpointer.save(s3_desk.tree({"step": b"0"}))
        wait_for(lambda: checkpointer._ledger.lag_s > 0.001, "the first save is older than that")
        thread, second = save_in_thread(s3_desk, checkpointer)
        wait_for(lambda: any("max_lag is 0.001 s" in line for line in s3_desk.said), "the second save waits, and says so")
        assert checkpointer.pending.saves == 1 and not second
    thread.join(DEADLINE_S)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert second[0].done()
    assert checkpointer.stats.committed == 2 and checkpointer.stats.dropped == 0 and checkpointer.stats.waited_s > 0


def test_raise_refuses_at_once_and_goes_on_later(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = s3_desk.open(max_pending=1, on_full="raise")
    with paused(seaweed):
        first = checkpointer.save(s3_desk.tree())
        with pytest.raises(SaveRefused, match=r"1 saves? waits? .*max_pending is 1.*on_full"):
            checkpointer.save(s3_desk.tree())
        assert checkpointer.stats.saves == 1
    first.wait(DEADLINE_S)
    checkpointer.save(s3_desk.tree())
    checkpointer.close(timeout_s=DEADLINE_S)
    assert len(s3_desk.records()) == 2


@pytest.mark.parametrize("on_full", ["block", "drop_oldest", "raise"])
def test_a_save_that_could_never_fit_is_refused_at_once(thread_desk: Desk, on_full: str) -> None:
    checkpointer = thread_desk.open(max_pending_bytes=100, on_full=on_full)
    with pytest.raises(SaveRefused, match="max_pending_bytes"):
        checkpointer.save(thread_desk.tree({"a": b"x" * 101}))
    checkpointer.save(thread_desk.tree({"a": b"x" * 100}))
    checkpointer.close(timeout_s=DEADLINE_S)
    assert len(thread_desk.records()) == 1
    assert thread_desk.is_clean()


def test_damage_that_was_told_keeps_no_later_save_out(
    s3_desk: Desk, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = s3_desk.open(max_pending=1)
    publish = Spool.publish

    def publish_without_its_pack(spool: Spool, entry: Entry) -> None:
        # Before it is published: afterwards the worker may have read it already.
        Path(spool.folder, EntryState.STAGING, entry.id, "pack").unlink()
        publish(spool, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "publish", publish_without_its_pack)
        damaged = checkpointer.save(s3_desk.tree({"a": b"12345"}))
    with pytest.raises(CheckpointNotStored):
        damaged.wait(DEADLINE_S)
    with pytest.raises(SpoolDamaged):
        checkpointer.save(s3_desk.tree())
    with paused(seaweed):
        kept = checkpointer.save(s3_desk.tree())
        # Another one has to wait: for the upload, and not for ever over what was told.
        thread, waited = save_in_thread(s3_desk, checkpointer)
        wait_for(lambda: any("save() waits" in line for line in s3_desk.said), "the save waits")
    thread.join(DEADLINE_S)
    assert kept.wait(DEADLINE_S) and waited[0].wait(DEADLINE_S)


def test_a_spool_that_somebody_removed_is_told(thread_desk: Desk) -> None:
    checkpointer = thread_desk.open()
    thread_desk.sidecars()
    shutil.rmtree(checkpointer.spool_folder)
    with pytest.raises(SpoolDamaged, match="removed the spool"):
        checkpointer.save(thread_desk.tree())


def test_a_wait_for_room_ends_at_its_deadline(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = s3_desk.open(max_pending=1, flush_timeout_s=0.3)
    with paused(seaweed):
        first = checkpointer.save(s3_desk.tree())
        with pytest.raises(SaveRefused, match="have not changed that in 300 ms"):
            checkpointer.save(s3_desk.tree())
    first.wait(DEADLINE_S)
