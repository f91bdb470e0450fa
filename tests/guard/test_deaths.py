"""A guard that dies, is too late, or has no room: nothing torn is ever published, and what is lost is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from ckpt_async import CheckpointNotStored, SnapshotFailed, StoreAddress, WorkerDied, open_reader
from ckpt_async.spool.torn import TORN_FILE
from ckpt_async.supervisor import MAX_DEATHS
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from ckpt_async.words.events import EntryFailed, WorkerReady
from ckpt_async.worker.deposits import Deposits, deposit
from ckpt_async.worker.sidecar_client import SidecarClient
from tests.engine.desk import DEADLINE_S, Desk, alive, paused, read_tree, wait_for
from tests.guard.conftest import killed_with_its_sidecar, mounted
from tests.guard.leases import leased_inodes
from tests.guard.writers import SIZE, plain

MIB = 1024 * 1024


def test_whoever_writes_after_a_guards_death_waits_for_the_next_guard(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({name: os.urandom(MIB) for name in ("before", "after", "never")})
    before = read_tree(tree)
    checkpointer = desk.open()
    first = desk.sidecars()[0]
    with paused(seaweed):
        reference = checkpointer.save(tree)
        again = checkpointer.save(tree)
        os.kill(first, signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            writing = pool.submit(plain, tree / "before")
            wait_for(lambda: _is_waited_for(tree / "before"), "a writer waits")
            os.kill(first, signal.SIGKILL)
            plain(tree / "after")
            writing.result(DEADLINE_S)
        desk.sidecars(2)
        wait_for(lambda: leased_inodes(tree) == [(tree / "never").stat().st_ino], "the rest is guarded again")
    checkpointer.flush()
    assert [desk.content(one) for one in (reference, again)] == [before, before]
    assert not any("is lost:" in line for line in desk.said)
    wait_for(lambda: not leased_inodes(tree), "what is stored is let go of")
    checkpointer.close(timeout_s=30)


def _is_waited_for(path: Path) -> bool:
    return any("BREAKING" in line and line.split()[-3].endswith(f":{path.stat().st_ino}") for line in _leases())


def _leases() -> list[str]:
    return [line for line in Path("/proc/locks").read_text().splitlines() if "LEASE" in line]


def test_what_is_overwritten_while_there_is_no_lease_is_not_published(
    desk: Desk, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deposits, "add", lambda _deposits, _label, keeping: keeping.close())  # so that a lease ends with its guard
    start, starts, overwritten = SidecarClient.start, count(1), threading.Event()

    def start_late(client: SidecarClient) -> None:
        assert next(starts) == 1 or overwritten.wait(DEADLINE_S)  # else the next guard might be there first
        start(client)

    monkeypatch.setattr(SidecarClient, "start", start_late)
    tree = desk.tree({"model": os.urandom(MIB), "config": b"1"})
    checkpointer = desk.open()
    first = desk.sidecars()[0]
    with paused(seaweed):
        lost = checkpointer.save(tree, name="lost")
        other = checkpointer.save(desk.tree({"other": os.urandom(MIB)}, name="other"), name="other")
        os.kill(first, signal.SIGSTOP)  # not even a death that is noticed at once
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not leased_inodes(tree), "the dead guard's leases are gone")
        plain(tree / "model")
        overwritten.set()
        desk.sidecars(2)
        wait_for(lambda: len(leased_inodes(desk.folder / "other")) == 1, "the other save is guarded again")
        kept = (desk.folder / "other" / "other").read_bytes()
        plain(desk.folder / "other" / "other")
    wait_for(desk.happened(EntryFailed), "the loss is told")
    assert any("A save is lost" in line and "'model' was written to" in line for line in desk.said)
    # A later save of the same is not hindered.
    later = checkpointer.save(tree, name="later")
    with pytest.raises(SnapshotFailed, match="keep what was saved as number 0"):
        checkpointer.flush()
    assert (lost.status, other.status, later.status) == ("failed", "committed", "committed")
    assert desk.content(other) == {"other": kept}
    assert desk.content(later) == read_tree(tree)
    assert [record.name for record in desk.records()] == ["later", "other"]
    with pytest.raises(CheckpointNotStored, match="was written to"):
        lost.wait(5)
    with pytest.raises(SnapshotFailed):
        checkpointer.close(timeout_s=30)
    assert desk.is_clean()


def test_a_guard_that_dies_has_a_successor(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({f"{number}": os.urandom(MIB) for number in range(5)})
    before = read_tree(tree)
    checkpointer = desk.open()
    with paused(seaweed):
        desk.sidecars()
        reference = checkpointer.save(tree)
        for life in range(1, 4):
            os.kill(desk.sidecars(life)[-1], signal.SIGKILL)
            desk.sidecars(life + 1)
            wait_for(lambda: len(leased_inodes(tree)) == 5, "all files are guarded again")
        for name in before:
            plain(tree / name)
    checkpointer.flush()
    assert desk.content(reference) == before


def test_saves_around_the_deaths_of_guards(desk: Desk, seaweed: SeaweedServer) -> None:
    """Whether a save meets a guard that lives, dies or is starting: once it has returned, its files may be written to.

    The new guard is waited for before that, for in between they are not guarded: see the tests above.
    """
    tree = desk.tree({"model": os.urandom(8 * MIB), "state": os.urandom(SIZE)})
    checkpointer = desk.open()
    contents, references = [], []
    for life in range(1, 4):
        pid = desk.sidecars(life)[-1]
        os.kill(pid, signal.SIGKILL)
        contents.append(read_tree(tree))
        references.append(checkpointer.save(tree))
        assert sum(references[-1].state.methods.values()) == 2
        desk.sidecars(life + 1)
        for name in ("model", "state"):
            plain(tree / name)
    checkpointer.flush()
    assert [desk.content(reference) for reference in references] == contents


def test_a_dead_attempt_whose_files_were_overwritten_is_passed_by(desk: Desk, seaweed: SeaweedServer) -> None:
    old = desk.tree({"model": os.urandom(MIB)}, name="old")
    new = desk.tree({"model": os.urandom(MIB)}, name="new")
    kept = read_tree(old)
    with paused(seaweed):
        task = desk.task()
        sidecar = desk.orphan(task.do("sidecar"))
        task.do("save", path=str(old))
        lost = task.do("save", path=str(new))
        assert lost["version_id"] == 1
        os.kill(sidecar, signal.SIGSTOP)
        task.kill()
        os.kill(sidecar, signal.SIGKILL)
        wait_for(lambda: not alive(sidecar), "the sidecar is dead")
        plain(new / "model")
    later = desk.open(1)
    target = desk.target()
    record = later.resume("fresh", str(target))
    assert record is not None and record.version_id == 0
    assert read_tree(target) == kept
    later.flush()
    assert [record.version_id for record in desk.records()] == [0]
    assert any("was written to" in line for line in desk.said)
    later.close(timeout_s=30)
    assert desk.is_clean(), "what is lost is told once"


def test_what_a_dead_attempt_left_may_be_overwritten_once_the_next_one_is_open(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    before = read_tree(tree)
    with paused(seaweed):
        (saved,) = killed_with_its_sidecar(desk, tree)
        later = desk.open(1)
        plain(tree / "model")
    later.flush()
    assert desk.content(saved) == before


def test_what_a_retry_has_adopted_outlives_its_guard_too(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    before = read_tree(tree)
    with paused(seaweed):
        (saved,) = killed_with_its_sidecar(desk, tree)
        later = desk.open(1)
        os.kill(desk.sidecars()[0], signal.SIGKILL)
        plain(tree / "model")
    later.flush()
    assert desk.content(saved) == before
    later.close(timeout_s=30)


def test_what_nobody_will_guard_any_more_is_copied(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    before = read_tree(tree)
    checkpointer = desk.open()
    with paused(seaweed):
        desk.sidecars()
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 1}
        for life in range(1, MAX_DEATHS + 2):
            os.kill(desk.sidecars(life)[-1], signal.SIGKILL)
        with pytest.raises(WorkerDied):
            checkpointer.flush()
        plain(tree / "model")
        with pytest.raises(WorkerDied):
            checkpointer.close(timeout_s=30)
    later = desk.open(1)
    later.flush()
    assert desk.content(reference) == before
    later.close(timeout_s=30)


def test_what_is_given_up_leaves_nothing_with_the_task(desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = desk.open(max_pending=2, on_full="drop_oldest")
    with paused(seaweed):
        desk.sidecars()
        references = []
        for number in range(4):
            tree = desk.tree({"model": os.urandom(MIB)}, name=str(number))
            references.append(checkpointer.save(tree))
            assert references[-1].state.methods == {"link": 1}
        waiting = [one.state.entry for one in references if one.status != "dropped"]
        assert len(waiting) == 2
        handle = checkpointer._worker._worker
        assert isinstance(handle, SidecarClient) and sorted(handle._deposits.labels()) == waiting
    checkpointer.close(timeout_s=30)
    assert handle._deposits.labels() == []


def test_a_forked_child_keeps_no_lease_of_the_dead(tmp_path: Path) -> None:
    deposits = Deposits()
    watched, end = os.pipe()
    deposits.add("0000000000", deposit([end]))
    os.close(end)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(os.getpid).result(DEADLINE_S)
        assert deposits.labels() == ["0000000000"]
        deposits.drop("0000000000")
        assert os.read(watched, 1) == b"", "nobody has the other end any more, while the child lives"
    os.close(watched)


def test_an_orphan_that_gives_up_leaves_no_link(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    before = read_tree(tree)
    with paused(seaweed):
        task = desk.task(flush_timeout_s=0.5)
        sidecar = desk.orphan(task.do("sidecar"))
        saved = task.do("save", path=str(tree))
        task.kill()
        wait_for(lambda: not alive(sidecar), "the sidecar has given up")
    # Nobody guards it from now on: what the sidecar did last was to copy it.
    (kept,) = desk.scratch.glob("*/0000/*/0000000000/f000001")
    assert kept.stat().st_nlink == 1
    plain(tree / "model")
    later = desk.open(1)
    target = desk.target()
    assert later.resume("fresh", str(target)) is not None and read_tree(target) == before
    later.flush()
    assert desk.content(saved) == before


@pytest.mark.waits
@pytest.mark.timeout(200)
def test_a_writer_that_the_kernel_lets_through_tears_nothing(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    checkpointer = desk.open()
    (sidecar,) = desk.sidecars()
    with paused(seaweed):
        lost = checkpointer.save(tree)
        os.kill(sidecar, signal.SIGSTOP)
        plain(tree / "model")  # waits for a guard that does not come
        os.kill(sidecar, signal.SIGCONT)
    # Seen by the guard, or by the uploader, whichever looks first.
    with pytest.raises(SnapshotFailed, match="too slow"):
        checkpointer.flush()
    later = checkpointer.save(tree)
    with pytest.raises(SnapshotFailed):
        checkpointer.close(timeout_s=30)
    assert lost.status == "failed" and desk.content(later) == read_tree(tree)
    assert [record.version_id for record in desk.records()] == [1]


def test_the_opening_does_not_wait_for_ever_for_a_guard(
    desk: Desk, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    with paused(seaweed):
        (saved,) = killed_with_its_sidecar(desk, tree)
    monkeypatch.setattr("ckpt_async.checkpointer.GUARD_TIMEOUT_S", 0.0)
    later = desk.open(1)
    assert sum("is not guarded after 0 ms" in line for line in desk.said) == 1
    later.close(timeout_s=DEADLINE_S)
    assert desk.content(saved) == read_tree(tree)


def test_what_a_dead_task_left_is_loaded_and_brought_home_by_a_later_run(desk: Desk, line: SlowLine) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    before = read_tree(tree)
    line.cut()
    (saved,) = killed_with_its_sidecar(desk, tree)
    opened = [desk.open(run="2"), desk.open(run="3")]
    for checkpointer in opened:
        checkpointer.reader = open_reader(desk.address, say=desk.said.append, give_up_after_s=0.1)
        target = desk.target()
        record = checkpointer.resume("eager", str(target))
        assert record is not None and record.key == saved["key"] and read_tree(target) == before
    # The second one has found that somebody is at it.
    (independent,) = desk.independent()
    assert sum("Flow/1/train/7, attempt 0 left on this machine" in said for said in desk.said) == 1
    plain(tree / "model")
    line.restore()
    wait_for(lambda: not alive(independent), "it has ended")
    assert desk.content(saved) == before
    for checkpointer in opened:
        checkpointer.close(timeout_s=DEADLINE_S)
    assert desk.is_clean()


def test_no_room_for_the_copy(tmp_path: Path, s3_address: StoreAddress, seaweed: SeaweedServer) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=200m", "tmpfs") as place:
        desk = Desk(place, s3_address)
        try:
            _fill_and_overwrite(desk, seaweed, place)
        finally:
            desk.end()


def _fill_and_overwrite(desk: Desk, seaweed: SeaweedServer, place: Path) -> None:
    tree = desk.tree({"model": os.urandom(40 * MIB)})
    checkpointer = desk.open()
    desk.sidecars()
    with paused(seaweed):
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 1}
        with pytest.raises(OSError, match="No space"), open(place / "filler", "wb") as filler:
            while True:
                filler.write(bytes(MIB))
        with open(tree / "model", "r+b") as file:  # is let through at once
            file.write(b"torn")
    with pytest.raises(SnapshotFailed, match="could not be copied"):
        checkpointer.flush()
    os.unlink(place / "filler")
    assert reference.status == "failed" and desk.records() == []
    assert [path.name for path in desk.scratch.rglob(TORN_FILE)] in ([TORN_FILE], [])
    later = checkpointer.save(tree)
    with pytest.raises(SnapshotFailed):
        checkpointer.close(timeout_s=30)
    assert later.done() and desk.content(later) == read_tree(tree)
    assert sum(isinstance(event, WorkerReady) for event in desk.events) == 1
    assert desk.is_clean()


def test_nothing_is_linked_where_a_copy_would_not_fit(tmp_path: Path, s3_address: StoreAddress, seaweed: SeaweedServer) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=160m", "tmpfs") as place:
        desk = Desk(place, s3_address)
        try:
            first = desk.tree({"a": os.urandom(20 * MIB)}, name="first")
            second = desk.tree({"b": os.urandom(20 * MIB)}, name="second")
            checkpointer = desk.open()
            desk.sidecars()
            with paused(seaweed):
                assert checkpointer.save(first).state.methods == {"link": 1}
                with open(place / "filler", "wb") as filler:
                    filler.write(bytes(30 * MIB))
                # 90 MiB are free; 64 stay so, and the rest must take a copy of each linked file.
                assert checkpointer.save(second).state.methods == {"copy": 1}
                plain(first / "a")
            checkpointer.flush()
            assert len(desk.records()) == 2
        finally:
            desk.end()
