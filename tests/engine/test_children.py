"""What child processes of a task saved, and did not live to store: the task's flush stores it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from ckpt_async import StoreAddress, StoreError, open_for_child
from ckpt_async.spool.neighbours import child_spool_folder, dead_children
from ckpt_async.spool.spool import Spool
from ckpt_async.testing.seaweed import SeaweedServer
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, identity_of, paused, save_in_killed_child, wait_for


def kill_after_save(desk: Desk, name: str = "child") -> None:
    folder = desk.tree({"step": b"of the child"}, "child")
    save_in_killed_child(identity_of(), desk.address, str(desk.scratch), folder, name)


@pytest.mark.parametrize("async_upload", [False, True])
def test_a_flush_stores_what_a_killed_child_saved(local_desk: Desk, async_upload: bool) -> None:
    task = local_desk.open(async_upload=async_upload)
    kill_after_save(local_desk, "first")
    # A synchronous task that has not saved anything yet has no worker either.
    task.flush()
    assert [record.name for record in local_desk.records()] == ["first"]

    kill_after_save(local_desk, "second")
    task.save(local_desk.tree({"step": b"newer"}), name="third").wait(DEADLINE_S)
    # A child that lives sees to itself, and one that was killed before it had anything leaves nothing.
    alive = open_for_child(identity_of(), local_desk.address, scratch_root=str(local_desk.scratch))
    Spool.create(child_spool_folder(task.spool_folder, 99), Spool(task.spool_folder).header())
    task.flush()
    assert [record.name for record in local_desk.records()] == ["third", "second", "first"]
    newest = local_desk.reader().latest(identity_of().pathspec)
    assert newest is not None and newest.name == "third", "an older save does not move the pointer back"
    alive.save(local_desk.tree({"step": b"of one that lives"}), name="fourth")
    alive.close(timeout_s=DEADLINE_S)
    assert local_desk.content(local_desk.records()[0]) == {"step": b"of one that lives"}

    kill_after_save(local_desk, "fifth")
    task.close(timeout_s=DEADLINE_S)
    assert local_desk.records()[0].name == "fifth"
    assert local_desk.is_clean() and not [line for line in local_desk.said if "could not" in line]


def test_a_worker_that_dies_with_what_a_child_left_has_a_successor(
    seaweed: SeaweedServer, make_desk: MakeDesk, s3_address: StoreAddress
) -> None:
    desk = make_desk(s3_address)
    task = desk.open()
    kill_after_save(desk)
    flushing = threading.Thread(target=task.flush)
    with paused(seaweed):
        flushing.start()
        folder = dead_children(task.spool_folder)[0]
        wait_for(Spool(folder).worker_lock.is_held, "the worker has it")
        os.kill(desk.sidecars(1)[0], signal.SIGKILL)
        desk.sidecars(2)
    flushing.join(DEADLINE_S)
    assert not flushing.is_alive()
    assert [record.name for record in desk.records()] == ["child"]
    task.close(timeout_s=DEADLINE_S)
    assert desk.is_clean()


def test_a_child_s_save_that_the_store_refuses_is_told(thread_desk: Desk) -> None:
    task = thread_desk.open()
    kill_after_save(thread_desk)
    store = Path(thread_desk.address.url)
    store.rename(store.with_name("away"))
    store.write_text("in the way")
    with pytest.raises(StoreError, match="what a child process of attempt 0 left is not in the store"):
        task.flush()
    store.unlink()
    store.with_name("away").rename(store)
    task.flush()
    assert [record.name for record in thread_desk.records()] == ["child"]
