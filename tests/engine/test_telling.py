"""What a task tells of its checkpoints: in the log, as numbers, and to a card that shows it live."""

from __future__ import annotations

import threading
import time

import pytest

from ckpt_async import Stats, StoreAddress, StoreUnavailable, compare_with_waiting
from ckpt_async.ledger import Ledger
from ckpt_async.progress import standstill_line, summary_line, waiting_line
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from ckpt_async.words.events import EntryCommitted, EntryFailed, EntryProgress, EntryStarted
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, paused, read_tree, wait_for
from tests.engine.test_bookkeeping import record_of


def test_a_task_that_goes_well_says_one_line_at_its_end(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    for _ in range(3):
        checkpointer.save(local_desk.tree()).wait(DEADLINE_S)
    checkpointer.flush()
    assert local_desk.said == []
    checkpointer.close(timeout_s=DEADLINE_S)
    (line,) = local_desk.said
    assert line.startswith("3 saves with 21 bytes in the store; save() held the training up for ")
    assert "waiting for each upload would have taken " in line


def test_a_standstill_is_told_once_with_what_to_do_and_so_is_its_end(
    make_desk: MakeDesk, s3_address: StoreAddress, line: SlowLine
) -> None:
    desk = make_desk(s3_address, "thread")
    checkpointer = desk.open()
    desk.sidecars()
    line.cut()
    # Many requests at once, so that many fail soon.
    checkpointer.save(desk.tree({f"file {number}": b"x" * 300_000 for number in range(30)}))
    wait_for(lambda: any("stand still" in said for said in desk.said), "it is told")
    line.restore()
    wait_for(lambda: any("go on" in said for said in desk.said), "the end of it is told")
    checkpointer.flush()
    told = [said for said in desk.said if "stand still" in said]
    assert len(told) == 1 and checkpointer.spool_folder in told[0] and "tried again" in told[0]
    assert sum("go on" in said for said in desk.said) == 1


def test_when_a_save_was_made_and_uploaded(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    before_s = time.time()
    state = checkpointer.save(local_desk.tree()).wait(DEADLINE_S).state
    after_s = time.time()
    assert before_s - 0.01 <= state.saved_unix_s <= state.started_unix_s <= state.ended_unix_s <= after_s
    assert state.ended_unix_s - state.upload_s >= before_s - 0.01


def test_what_is_waited_for_is_counted_and_not_saved(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = s3_desk.open()
    with paused(seaweed):
        reference = checkpointer.save(s3_desk.tree())
        flushing = threading.Thread(target=checkpointer.flush)
        flushing.start()
        wait_for(lambda: any("Uploading to" in said for said in s3_desk.said), "the flush waits")
    flushing.join(DEADLINE_S)
    (wait,) = checkpointer.waits
    stats = checkpointer.stats
    assert stats.flush_s == wait.seconds > 0 and wait.unix_s >= reference.state.saved_unix_s
    assert compare_with_waiting(stats).held_up_s == stats.blocked_s + stats.flush_s
    assert compare_with_waiting(stats).saved_s < stats.upload_s


def test_a_synchronous_save_saves_nothing(thread_desk: Desk) -> None:
    checkpointer = thread_desk.open(async_upload=False)
    checkpointer.save(thread_desk.tree())
    stats = checkpointer.stats
    assert 0 < stats.upload_s <= stats.waited_s <= stats.blocked_s and compare_with_waiting(stats).saved_s == 0


def test_only_the_main_thread_is_held_up_by_wait() -> None:
    ledger = Ledger()
    references = [ledger.open(record_of(version), f"{version:010d}", 1) for version in range(2)]
    with pytest.raises(TimeoutError):
        references[0].wait(0.01)
    assert len(ledger.waits) == 1 and ledger.waits[0].seconds >= 0.01
    other = threading.Thread(target=references[1].wait)
    other.start()
    wait_for(lambda: references[1].state.waiters, "the other thread waits")
    ledger.apply(EntryCommitted("0000000001", 1, 5.0))
    other.join(DEADLINE_S)
    assert len(ledger.waits) == 1 and ledger.stats.upload_s == 5.0


@pytest.mark.slow
def test_what_an_earlier_attempt_left_is_told_while_it_is_uploaded(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer
) -> None:
    desk = make_desk(s3_address)
    with paused(seaweed):
        task = desk.task(worker="thread")
        for content in (b"1", b"2"):
            task.do("save", path=str(desk.tree({"a": content})))
        task.kill()
        later = desk.open(1)
        wait_for(lambda: later.adopted, "the first of them is begun")
        (first,) = later.adopted
        assert (first.attempt, first.version, first.state.status) == (0, 0, "uploading") and later.adopting == ("0000",)
        target = desk.target()
        assert later.resume("fresh", str(target)) is not None and read_tree(target) == {"a": b"2"}
        assert later.resumed_from_disk
    later.flush()
    assert [(one.name, one.version, one.state.status) for one in later.adopted] == [
        ("mfchckpt", 0, "committed"),
        ("mfchckpt", 1, "committed"),
    ]
    assert later.adopting == () and later.left_errors == {} and later.stats.saves == 0
    later.close(timeout_s=DEADLINE_S)
    last = desk.open(2)
    assert last.resume("fresh", str(desk.target())) is not None and not last.resumed_from_disk


def test_news_of_what_others_left_is_kept_apart() -> None:
    ledger = Ledger(["0000"])
    ledger.apply(EntryStarted("0000/0000000003", 10, "epoch", 0, 3, 100.0))
    ledger.apply(EntryProgress("0000/0000000003", 4))
    ledger.apply(EntryStarted("0000000009", 10, "taken back", 1, 9, 100.0))
    (left,) = ledger.adopted
    assert (left.name, left.version, left.state.done_bytes, left.state.started_unix_s) == ("epoch", 3, 4, 100.0)
    ledger.apply(EntryFailed("0000/0000000003", StoreUnavailable("x", cause="y").to_wire(), 101.0))
    assert left.state.status == "failed" and left.state.ended_unix_s == 101.0
    assert ledger.stats.saves == 0 and ledger.pending.saves == 0 and not ledger.references()


class TestLines:
    def test_the_end(self) -> None:
        stats = Stats(saves=4, committed=3, saved_bytes=3_000_000_000, copied_bytes=1_000_000_000, blocked_s=0.5, upload_s=300.0)
        assert summary_line(stats) == (
            "3 saves with 3 GB in the store, 1 GB of it not sent again; save() held the training up for 500 ms, "
            "waiting for each upload would have taken 5 min."
        )
        waited = Stats(committed=1, saved_bytes=1, blocked_s=12.0, waited_s=11.0, flush_s=40.0, upload_s=100.0)
        assert summary_line(waited) == (
            "1 save with 1 byte in the store; save() held the training up for 12 s and waiting for the last uploads for 40 s, "
            "waiting for each upload would have taken 2 min."
        )
        assert compare_with_waiting(waited).saved_s == 100.0 - 11.0 - 40.0
        assert summary_line(Stats(saves=1)) == ""

    def test_a_trouble_is_told_in_full_once(self) -> None:
        first = waiting_line(1, 5, 0.0, store="s3://b", trouble="could not put", adopting=0)
        assert first == "Uploading to s3://b: 1 save with 5 bytes left; trouble, being retried: could not put"
        later = waiting_line(1, 5, 0.0, store="s3://b", trouble="could not put", adopting=0, told="could not put")
        assert later == "Uploading to s3://b: 1 save with 5 bytes left; the same trouble, still being retried"

    def test_a_standstill(self) -> None:
        assert standstill_line("could not put: 503", "It lies in /x.") == (
            "The uploads stand still: could not put: 503. They are tried again until they succeed. It lies in /x."
        )
