"""Whoever dies, nothing that save() returned for is lost; and whoever is left ends."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_async import Settings, StoreAddress
from ckpt_async.hosting import Host
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.events import EntryStarted
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, TaskProcess, alive, identity_of, paused, read_tree, wait_for, write_tree

NEWEST = {"model.bin": b"2" * 3_000_000, "step": b"2"}


@pytest.fixture
def desk(s3_address: StoreAddress, make_desk: MakeDesk) -> Desk:
    """Over S3: a server that can be held up."""
    return make_desk(s3_address)


def save_two(desk: Desk, task: TaskProcess) -> None:
    task.do("save", path=str(desk.tree({"step": b"1"})))
    task.do("save", path=str(desk.tree(NEWEST)))


def assert_all_stored(desk: Desk) -> None:
    records = desk.records()
    assert [(record.attempt, record.version_id) for record in records][-2:] == [(0, 1), (0, 0)]
    assert [desk.content(record) for record in records][-2:] == [NEWEST, {"step": b"1"}]
    wait_for(desk.is_clean, f"the scratch folder is empty: {desk.spools()}")


def test_the_sidecar_finishes_what_a_killed_task_saved(desk: Desk, seaweed: SeaweedServer) -> None:
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    with paused(seaweed):
        save_two(desk, task)
        task.kill()
        (spool,) = desk.scratch.glob("*/0000")
        write_tree(spool / "staging" / "0000000002", {"pack": b"half a save"})
        assert alive(sidecar)
    wait_for(lambda: not alive(sidecar), "the sidecar has ended")
    assert_all_stored(desk)


def test_the_sidecar_keeps_no_pipe_of_the_task_open(desk: Desk, seaweed: SeaweedServer) -> None:
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    with paused(seaweed):
        save_two(desk, task)
        task.kill()
        for pipe in (task.process.stdout, task.process.stderr):
            assert pipe is not None
            readable, _, _ = select.select([pipe], [], [], DEADLINE_S)
            assert readable and not pipe.read(), "whoever reads the task's output sees its end"
        assert alive(sidecar)


@pytest.mark.parametrize("told_by", ["the system", "looking"])
def test_a_forked_child_that_stays_hides_no_death(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    if told_by == "looking":
        # As on macOS, for task and sidecar alike.
        (tmp_path / "sitecustomize.py").write_text("import os\nif hasattr(os, 'pidfd_open'):\n    del os.pidfd_open\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    child = desk.orphan(task.do("fork_that_stays"))
    task.kill()
    wait_for(lambda: not alive(sidecar), "the sidecar has seen the task's death")
    assert alive(child)
    assert desk.is_clean()


def test_the_next_attempt_resumes_while_the_sidecar_of_the_dead_one_uploads(desk: Desk, seaweed: SeaweedServer) -> None:
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    with paused(seaweed):
        save_two(desk, task)
        task.kill()
        later = desk.open(1)
    target = desk.target()
    record = later.resume("fresh", str(target))
    assert record is not None and (record.attempt, record.version_id) == (0, 1)
    assert read_tree(target) == NEWEST
    later.save(desk.tree({"step": b"3"}))
    later.close(timeout_s=DEADLINE_S)
    assert not alive(sidecar)
    assert_all_stored(desk)
    assert len(desk.records()) == 3


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_the_next_attempt_resumes_from_the_spool_when_all_were_killed(
    s3_address: StoreAddress, make_desk: MakeDesk, seaweed: SeaweedServer, worker: str
) -> None:
    desk = make_desk(s3_address, worker)
    task = desk.task()
    sidecar = task.do("sidecar")
    with paused(seaweed):
        save_two(desk, task)
        task.kill()
        if worker == "process":
            os.kill(desk.orphan(sidecar), signal.SIGKILL)
    assert desk.spools() == ["0000"] and not desk.records()

    later = desk.open(1)
    target = desk.target()
    record = later.resume("fresh", str(target))
    assert record is not None and (record.attempt, record.version_id) == (0, 1)
    assert read_tree(target) == NEWEST
    later.close(timeout_s=DEADLINE_S)
    assert_all_stored(desk)
    latest = desk.reader().latest(identity_of().pathspec)
    assert latest is not None and latest.key == record.key


def test_a_killed_sidecar_is_started_again(desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = desk.open()
    with paused(seaweed):
        first = checkpointer.save(desk.tree(NEWEST))
        wait_for(desk.happened(EntryStarted), "the upload has begun")
        os.kill(desk.sidecars()[0], signal.SIGKILL)
        wait_for(desk.happened(EntryStarted, 2), "the next worker has taken it up")
        second = checkpointer.save(desk.tree({"step": b"3"}, "more"))
    checkpointer.close(timeout_s=DEADLINE_S)
    assert first.done() and second.done()
    assert desk.content(first) == NEWEST
    assert sum("started again" in line for line in desk.said) == 1
    assert desk.is_clean()


def test_a_sidecar_that_is_killed_before_it_is_ready_is_started_again(desk: Desk) -> None:
    checkpointer = desk.open()
    os.kill(checkpointer._worker._worker.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    reference = checkpointer.save(desk.tree(NEWEST))
    checkpointer.close(timeout_s=DEADLINE_S)
    assert reference.done()


def test_a_live_older_attempt_is_left_alone(desk: Desk, seaweed: SeaweedServer) -> None:
    task = desk.task()
    with paused(seaweed):
        save_two(desk, task)
        later = desk.open(1)
        desk.sidecars()
        assert "0000" in desk.spools()
        later.close(timeout_s=DEADLINE_S)
        assert desk.spools() == ["0000"]
    task.do("flush")
    task.do("close")
    assert_all_stored(desk)


@pytest.mark.parametrize("saves", [True, False])
def test_a_task_that_ends_without_close_leaves_all_to_the_sidecar(desk: Desk, saves: bool) -> None:
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    if saves:
        save_two(desk, task)
    assert not re.sub(r".*ResourceWarning.*\n?.*", "", task.end()).strip()
    wait_for(lambda: not alive(sidecar), "the sidecar has ended")
    wait_for(desk.is_clean, "the scratch folder is empty")
    assert len(desk.records()) == (2 if saves else 0)


def test_an_orphan_gives_up_at_its_deadline_and_keeps_the_data(desk: Desk, seaweed: SeaweedServer) -> None:
    task = desk.task(flush_timeout_s=0.5)
    sidecar = desk.orphan(task.do("sidecar"))
    with paused(seaweed):
        save_two(desk, task)
        task.kill()
        wait_for(lambda: not alive(sidecar), "the sidecar has ended")
        assert desk.spools() == ["0000"]
    desk.open(1).close(timeout_s=DEADLINE_S)
    assert_all_stored(desk)


def test_a_sidecar_does_not_wait_for_what_never_answers(
    make_desk: MakeDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent.py").write_text("import threading\n\ndef access():\n    threading.Event().wait()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    desk = make_desk(StoreAddress("s3://bucket/root", "silent:access"))
    task = desk.task(flush_timeout_s=0.5)
    sidecar = desk.orphan(task.do("sidecar"))
    task.do("save", path=str(desk.tree()))
    task.kill()
    wait_for(lambda: not alive(sidecar), "the sidecar has ended, and left a thread behind")
    assert desk.spools() == ["0000"]


def test_a_forked_child_cannot_save_and_ends_cleanly(desk: Desk) -> None:
    task = desk.task()
    assert task.do("fork_that_saves", path=str(desk.tree())) == 7
    task.do("save", path=str(desk.tree()))
    task.do("close")
    assert not task.end()
    assert len(desk.records()) == 1
    assert desk.is_clean()


def test_a_worker_that_ends_is_not_taken_for_a_living_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt leaves alone what belongs to one that lives, and does not look again."""
    spool = Spool.create(str(tmp_path / "0000"), SpoolHeader(StoreAddress(str(tmp_path / "store")), Settings()))
    look = "import sys; from ckpt_async.spool.ownership import FileLock; sys.exit(FileLock(sys.argv[1]).is_held())"
    seen: list[int] = []

    def removing(own: Spool) -> None:
        seen.append(subprocess.run([sys.executable, "-c", look, own.task_lock.path], timeout=DEADLINE_S).returncode)

    monkeypatch.setattr("ckpt_async.hosting.remove_spool", removing)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Host(spool, theirs, 0, None)._clean_up()
    assert seen == [0] and not spool.worker_lock.held
