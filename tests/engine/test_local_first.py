"""A retry on the same machine goes on from what is on its disk: what waits for its upload, and what `keep_local` has kept."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from ckpt_async import Checkpointer, CheckpointRecord, StoreAddress
from ckpt_async.words.events import WorkerReady
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, alive, read_tree, wait_for

LARGE = os.urandom(1 << 20)
SMALL = {"small": b"s" * 10, "sub/empty": b""}


def files_of(step: int) -> dict[str, bytes]:
    return {"large": bytes([step]) + LARGE, **SMALL}


def saved(desk: Desk, steps: int = 1, *, attempt: int = 0, **settings: int) -> Checkpointer:
    """Save some steps; all of them are stored when this returns."""
    ready = sum(isinstance(event, WorkerReady) for event in desk.events)
    opened = desk.open(attempt, **{"keep_local": 1, **settings})
    if desk.worker == "process":
        desk.sidecars(ready + 1)
    for step in range(steps):
        shutil.rmtree(desk.folder / "data", ignore_errors=True)
        tree = desk.tree(files_of(step))
        # Written some time ago, as far as anybody can tell.
        os.utime(tree / "large", (1_600_000_000, 1_600_000_000))
        opened.save(tree)
    opened.flush(DEADLINE_S)
    return opened


def kept(desk: Desk, attempt: int = 0) -> list[Path]:
    return sorted(desk.scratch.glob(f"*/{attempt:04d}/kept/*/f0*"))


def spoil_store(desk: Desk, record: CheckpointRecord) -> None:
    """See to it that nobody can load it from there."""
    path = Path(desk.address.url, record.key, "large")
    path.chmod(0o600)
    path.write_bytes(b"spoilt")


def resumed(desk: Desk, attempt: int = 1) -> Path:
    target = desk.target()
    assert desk.open(attempt, keep_local=1).resume("fresh", str(target)) is not None
    return target


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")
@pytest.mark.parametrize("snapshot", ["auto", "copy"])
def test_what_waits_for_its_upload_is_linked_where_it_is_guarded(
    make_desk: MakeDesk, local_address: StoreAddress, snapshot: str
) -> None:
    desk = make_desk(local_address)
    store, away = Path(desk.address.url), desk.folder / "away"
    store.rename(away)
    task = desk.task(snapshot="link")
    sidecar = desk.orphan(task.do("sidecar"))
    reference = task.do("save", path=str(desk.tree(files_of(0))))
    os.kill(sidecar, signal.SIGSTOP)  # first, for a task that sees its sidecar die starts another one
    task.kill()
    os.kill(sidecar, signal.SIGKILL)
    shutil.rmtree(desk.folder / "data")
    (waiting,) = desk.scratch.glob("*/0000/*/*/f000001")
    inode = waiting.stat().st_ino
    later = desk.open(1, snapshot=snapshot)
    target = desk.target()
    assert later.resume("fresh", str(target)) is not None and read_tree(target) == files_of(0)
    assert ((target / "large").stat().st_ino == inode) == (snapshot == "auto")
    (target / "large").write_bytes(b"overwritten by the training at once")
    # A refusal that is told during the flush would end it.
    wait_for(lambda: later._ledger.adoption_errors, "the store has refused it")
    away.rename(store)
    later.close(timeout_s=DEADLINE_S)
    assert desk.content(reference) == files_of(0)


def test_a_retry_gets_the_very_files(local_desk: Desk) -> None:
    saved(local_desk, 3).close(timeout_s=DEADLINE_S, retried=True)
    (large,) = kept(local_desk)
    inode = large.stat().st_ino
    # A file that the user still has under another name must not become one with the restored one.
    shutil.rmtree(local_desk.folder / "data")
    spoil_store(local_desk, local_desk.records()[0])
    target = resumed(local_desk)
    assert read_tree(target) == files_of(2)
    assert (target / "large").stat().st_ino == inode and (target / "large").stat().st_mtime == 1_600_000_000
    assert not kept(local_desk)
    (target / "large").write_bytes(b"overwritten by the training")


def test_what_the_user_still_has_is_copied_and_what_was_overwritten_comes_from_the_store(local_desk: Desk) -> None:
    saved(local_desk).close(timeout_s=DEADLINE_S, retried=True)
    target = resumed(local_desk)
    assert read_tree(target) == files_of(0)
    assert (target / "large").stat().st_ino != (local_desk.folder / "data" / "large").stat().st_ino

    saved(local_desk, attempt=2).close(timeout_s=DEADLINE_S, retried=True)
    linked = kept(local_desk, 2)[0].stat().st_nlink == 2
    assert linked == (local_desk.worker == "process")
    # Nobody holds its writers back any more.
    with (local_desk.folder / "data" / "large").open("r+b") as file:
        file.write(b"overwritten in place")
    assert read_tree(resumed(local_desk, 3)) == files_of(0)


def test_what_was_kept_before_the_machine_was_started_anew_is_not_believed(thread_desk: Desk) -> None:
    saved(thread_desk).close(timeout_s=DEADLINE_S, retried=True)
    (large,) = kept(thread_desk)
    large.write_bytes(bytes(len(LARGE) + 1))
    (large.parent / "boot").write_bytes(b"another run of it")
    assert read_tree(resumed(thread_desk)) == files_of(0)


def test_a_store_that_is_away_does_not_hide_what_was_kept(thread_desk: Desk) -> None:
    saved(thread_desk, 2, keep_local=2).close(timeout_s=DEADLINE_S, retried=True)
    Path(thread_desk.address.url).rename(thread_desk.folder / "away")
    target = thread_desk.target()
    record = thread_desk.open(1).resume("fresh", str(target))
    assert record is not None and record.version_id == 1 and read_tree(target) == files_of(1)
    assert not any("store can't be read" in line for line in thread_desk.said)


def test_it_yields_to_what_is_newer_in_the_store(thread_desk: Desk) -> None:
    saved(thread_desk).close(timeout_s=DEADLINE_S, retried=True)
    elsewhere = thread_desk.open(1, scratch=thread_desk.folder / "another machine")
    elsewhere.save(thread_desk.tree({"step": b"newer"}))
    elsewhere.close(timeout_s=DEADLINE_S)
    assert read_tree(resumed(thread_desk, 2))["step"] == b"newer"


def test_a_killed_task_leaves_it_and_a_good_end_does_not(local_desk: Desk) -> None:
    if local_desk.worker == "process":
        task = local_desk.task(keep_local=1)
        sidecar = local_desk.orphan(task.do("sidecar"))
        task.do("save", path=str(local_desk.tree(files_of(0))))
        task.do("flush")
        task.kill()
        wait_for(lambda: not alive(sidecar), "the sidecar has ended")
    else:
        saved(local_desk).close(timeout_s=DEADLINE_S, retried=True)
    assert kept(local_desk)
    # Whether or not anything is loaded.
    saved(local_desk, attempt=1).close(timeout_s=DEADLINE_S)
    assert local_desk.is_clean()


def test_it_makes_room_for_a_save(thread_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = saved(thread_desk)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("ckpt_async.gate.shutil.disk_usage", lambda path: usage(10 if kept(thread_desk) else 1 << 40))
    opened.save(thread_desk.tree({"small": b"s"}), latest=False)
    opened.flush(DEADLINE_S)
    # What a retry would not resume from is of no use to it.
    assert not kept(thread_desk) and any("deleted" in line for line in thread_desk.said)
    opened.close(timeout_s=DEADLINE_S)
    assert thread_desk.is_clean()
