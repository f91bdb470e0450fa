"""What a new attempt goes on from: the newest of store and spools that is whole."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckpt_async import (
    CheckpointDamaged,
    CheckpointRecord,
    SpoolBusy,
    StoreAddress,
    StoreMissing,
    StoreUnavailable,
    open_reader,
)
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from ckpt_async.words import keys
from ckpt_async.words.events import EntryFailed
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, identity_of, paused, read_tree, save_in_killed_child, wait_for


@pytest.fixture
def desk(local_address: StoreAddress, make_desk: MakeDesk) -> Desk:
    return make_desk(local_address, "thread")


def stored(desk: Desk, *steps: bytes, attempt: int = 0, run: str = "1") -> list[CheckpointRecord]:
    """Have an attempt save these steps and end well; returns the records, oldest first."""
    checkpointer = desk.open(attempt, run=run)
    references = [checkpointer.save(desk.tree({"step": step})) for step in steps]
    checkpointer.close(timeout_s=DEADLINE_S)
    return [reference.record for reference in references]


def left(desk: Desk, *steps: bytes, attempt: int = 0, run: str = "1", **more: Any) -> Path:
    """Have an attempt save these steps while the store is away, and end; returns its spool, which is left."""
    checkpointer = desk.open(attempt, run=run, snapshot="copy")
    with away(desk):
        for step in steps:
            checkpointer.save(desk.tree({"step": step, **more.get("files", {})}), latest=more.get("latest", True))
        with pytest.raises(StoreMissing):
            checkpointer.close(timeout_s=DEADLINE_S)
    return Path(checkpointer.spool_folder)


@contextmanager
def away(desk: Desk) -> Iterator[None]:
    """Let the store refuse everything for a while."""
    store = Path(desk.address.url)
    store.rename(desk.folder / "away")
    try:
        yield
    finally:
        (desk.folder / "away").rename(store)


def resumed(desk: Desk, attempt: int, policy: str = "fresh", run: str = "1") -> bytes | None:
    """Open an attempt and return the step that it goes on from."""
    checkpointer = desk.open(attempt, run=run)
    target = desk.target()
    record = checkpointer.resume(policy, str(target))
    assert (record is None) == (not target.exists() or not os.listdir(target))
    return None if record is None else read_tree(target)["step"]


def file_of(desk: Desk, key: str) -> Path:
    return Path(desk.address.url, key)


def damage(desk: Desk, record: CheckpointRecord) -> None:
    path = file_of(desk, record.key) / "step"
    path.chmod(0o600)
    path.write_bytes(b"?" * len(path.read_bytes()))


def test_a_first_attempt_starts_fresh_and_asks_nobody(make_desk: MakeDesk, s3_address: StoreAddress, line: SlowLine) -> None:
    desk = make_desk(s3_address)
    line.cut()
    checkpointer = desk.open()
    assert checkpointer.resume("fresh", str(desk.target())) is None
    assert not any("store" in said for said in desk.said)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert line.connections == 0


def test_a_later_attempt_goes_on_from_the_newest(desk: Desk) -> None:
    stored(desk, b"0", b"1")
    assert resumed(desk, 1) == b"1"
    stored(desk, b"2", attempt=2)
    assert resumed(desk, 3) == b"2"


def test_an_attempt_after_one_that_saved_nothing_finds_nothing(desk: Desk) -> None:
    desk.open().close(timeout_s=DEADLINE_S)
    assert resumed(desk, 1) is None


def test_eager_goes_on_from_another_run_of_the_scope_and_fresh_does_not(desk: Desk) -> None:
    stored(desk, b"old", run="1")
    stored(desk, b"new", run="2")
    assert resumed(desk, 0, "eager", run="3") == b"new"
    assert resumed(desk, 0, "fresh", run="4") is None
    assert resumed(desk, 1, "fresh", run="4") is None
    stored(desk, b"own", run="5")
    stored(desk, b"newest", run="6")
    assert resumed(desk, 1, "eager", run="5") == b"own"


def test_what_a_spool_holds_yields_to_a_newer_checkpoint_in_the_store(desk: Desk, s3_address: StoreAddress) -> None:
    folder = left(desk, b"0")
    kept = shutil.copytree(folder, desk.folder / "kept")
    stored(desk, b"1", attempt=1)
    shutil.copytree(kept, folder)
    assert resumed(desk, 2) == b"1"


def test_eager_goes_on_from_what_a_dead_task_of_the_scope_left(desk: Desk) -> None:
    stored(desk, b"stored before", run="1")
    left(desk, b"left", run="2")
    left(desk, b"not to be resumed from", run="3", latest=False)
    assert resumed(desk, 0, "fresh", run="4") is None
    assert resumed(desk, 0, "eager", run="5") == b"left"
    assert sum("Flow/2/train/7, attempt 0, which is dead, stay" in line for line in desk.said) == 1
    stored(desk, b"own", run="6")
    left(desk, b"left later", run="7")
    assert resumed(desk, 1, "eager", run="6") == b"own"
    assert resumed(desk, 0, "eager", run="8") == b"left later"
    stored(desk, b"stored after", run="9")
    assert resumed(desk, 0, "eager", run="10") == b"stored after"


def test_eager_passes_by_what_is_alive_damaged_or_of_others(desk: Desk) -> None:
    stored(desk, b"stored", run="1")
    damaged = left(desk, b"damaged", run="2")
    Path(damaged, "ready", "0000000000", "entry.json").write_bytes(b"{")
    headless = left(desk, b"headless", run="3")
    Path(headless, "spool.json").unlink()
    elsewhere = left(desk, b"of another store", run="4")
    header = Path(elsewhere, "spool.json")
    header.write_text(header.read_text().replace(desk.address.url, "/elsewhere"))
    if os.geteuid() == 0:
        os.chown(left(desk, b"of another user", run="9").parent, 65534, -1)
    with away(desk):
        living = desk.open(run="5")
        living.save(desk.tree({"step": b"alive"}))
        wait_for(desk.happened(EntryFailed), "it is left, for now")
        other_scope = desk.open(run="6", scope="another")
        other_scope.save(desk.tree({"step": b"of another scope"}))
        with pytest.raises(StoreMissing):
            other_scope.close(timeout_s=DEADLINE_S)
    assert resumed(desk, 0, "eager", run="7") == b"stored"
    passed_by = [line for line in desk.said if "another task left can't be read and is passed by" in line]
    assert len(passed_by) == 2 and str(damaged) in passed_by[0] and str(headless) in passed_by[1]
    assert not any("which is dead" in line for line in desk.said)
    with pytest.raises(SpoolBusy):
        desk.open(run="5")
    living.flush()
    assert resumed(desk, 0, "eager", run="8") == b"alive"


def test_a_damaged_pointer_is_told_and_the_list_is_searched(desk: Desk) -> None:
    stored(desk, b"0", b"1")
    file_of(desk, keys.task_latest_key(identity_of().pathspec)).write_bytes(b"{")
    assert resumed(desk, 1) == b"1"
    assert sum("pointer" in line and "damaged" in line for line in desk.said) == 1


def test_what_is_not_to_be_resumed_from_is_passed_by_where_the_list_is_searched(desk: Desk) -> None:
    checkpointer = desk.open()
    checkpointer.save(desk.tree({"step": b"0"}))
    resumable = checkpointer.save(desk.tree({"step": b"1"})).record
    checkpointer.save(desk.tree({"step": b"best"}), name="best", latest=False)
    checkpointer.close(timeout_s=DEADLINE_S)
    pointer = file_of(desk, keys.task_latest_key(identity_of().pathspec))
    pointer.write_bytes(b"{")
    assert resumed(desk, 1) == b"1"
    # The machine was lost before there was a pointer.
    pointer.unlink()
    assert resumed(desk, 2) == b"1"
    damage(desk, resumable)
    assert resumed(desk, 3) == b"0"


def test_a_damaged_checkpoint_is_told_and_an_older_one_is_taken(desk: Desk) -> None:
    records = stored(desk, b"0", b"1", b"2")
    damage(desk, records[2])
    file_of(desk, records[1].manifest).unlink()
    assert resumed(desk, 1) == b"0"
    told = [line for line in desk.said if "is damaged, an older one is tried" in line]
    assert len(told) == 2 and records[2].key in told[0] and records[1].key in told[1]


def test_when_all_are_damaged_the_user_decides(desk: Desk) -> None:
    for record in stored(desk, b"0", b"1"):
        damage(desk, record)
    checkpointer = desk.open(1)
    target = desk.target()
    with pytest.raises(CheckpointDamaged, match="digest"):
        checkpointer.resume("fresh", str(target))
    assert not os.listdir(target)


def test_a_damaged_save_in_the_spool_is_told_and_the_store_is_asked(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer
) -> None:
    desk = make_desk(s3_address)
    task = desk.task()
    task.do("save", path=str(desk.tree({"step": b"0"})))
    task.do("flush")
    with paused(seaweed):
        task.do("save", path=str(desk.tree({"step": b"1"})))
        os.kill(desk.orphan(task.do("sidecar")), signal.SIGSTOP)
        task.kill()
        (pack,) = desk.scratch.glob("*/0000/*/0000000001/pack")
        pack.write_bytes(b"")
    assert resumed(desk, 1) == b"0"
    assert any("was left on this machine is damaged" in line and "pack" in line for line in desk.said)


@pytest.mark.parametrize("lacking", ["pack", "f000001"])
def test_a_save_in_the_spool_that_lacks_a_file_stops_no_retry(desk: Desk, lacking: str) -> None:
    stored(desk, b"0")
    folder = left(desk, b"1", attempt=1, files={"more": bytes(1 << 20)})
    Path(folder, "ready", "0000000000", lacking).unlink()
    for attempt in (2, 3):
        assert resumed(desk, attempt) == b"0"
    assert sum("was left on this machine is damaged" in line and lacking in line for line in desk.said) == 2


def test_a_store_that_is_away_does_not_hide_what_this_machine_has(
    make_desk: MakeDesk, s3_address: StoreAddress, line: SlowLine
) -> None:
    desk = make_desk(s3_address, "thread")
    stored(desk, b"0")
    first = desk.open(1)
    line.cut()
    first.save(desk.tree({"step": b"1"}))
    with pytest.raises(TimeoutError):
        first.close(timeout_s=0.1)

    reader = open_reader(s3_address, say=desk.said.append, give_up_after_s=0.3)
    for attempt in (2, 3):
        later = desk.open(attempt, flush_timeout_s=0.5)
        later.reader = reader
        target = desk.target()
        record = later.resume("fresh", str(target))
        assert record is not None and record.attempt == 1 and read_tree(target) == {"step": b"1"}
        # Of the attempt before it nothing newer can be anywhere. The one after that does not know what the second one has done.
        assert any("store can't be read" in line for line in desk.said) == (attempt == 3)

    elsewhere = desk.open(4, scratch=desk.folder / "another machine")
    elsewhere.reader = reader
    with pytest.raises(StoreUnavailable):
        elsewhere.resume("fresh", str(desk.target()))


def test_what_a_killed_child_left_is_not_taken_for_the_newest(desk: Desk) -> None:
    task = desk.open()
    save_in_killed_child(identity_of(), desk.address, str(desk.scratch), desk.tree({"step": b"of the child"}, "child"), "mfchckpt")
    # The task goes on, and saves once more.
    newest = task.save(desk.tree({"step": b"later"}))
    task.close(timeout_s=DEADLINE_S)
    target = desk.target()
    found = desk.open(1).resume("fresh", str(target))
    assert found == newest.record and read_tree(target) == {"step": b"later"}


def test_the_next_attempt_goes_on_from_what_a_killed_child_left(local_desk: Desk) -> None:
    task = local_desk.task()
    task.do("save", path=str(local_desk.tree({"step": b"of the task"})))
    child = local_desk.tree({"step": b"of the child"}, "child")
    save_in_killed_child(identity_of(), local_desk.address, str(local_desk.scratch), child, "child")
    task.kill()
    retry, target = local_desk.open(1), local_desk.target()
    record = retry.resume("fresh", str(target))
    assert record is not None and (record.name, record.version_id, record.attempt) == ("child", 1, 0)
    assert read_tree(target) == {"step": b"of the child"}
    retry.close(timeout_s=DEADLINE_S)
    assert [one.name for one in local_desk.records()] == ["child", "mfchckpt"]
    wait_for(local_desk.is_clean, "no spool is left")
