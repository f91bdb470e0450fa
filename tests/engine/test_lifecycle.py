"""Opening and closing: what is refused, what is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_async import InvalidArgument, Settings, SpoolBusy, StoreAddress, UnsupportedStore, open_checkpointer
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, alive, identity_of


def test_close_without_saves_leaves_no_trace(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    checkpointer.close(timeout_s=DEADLINE_S)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert local_desk.is_clean() and not local_desk.said
    assert not local_desk.records()


def test_close_ends_the_sidecar_and_every_later_call(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    pid = local_desk.sidecars()[0]
    reference = checkpointer.save(local_desk.tree())
    checkpointer.close(timeout_s=DEADLINE_S)
    assert pid == os.getpid() or not alive(pid)
    assert local_desk.is_clean()
    for call in (lambda: checkpointer.save(local_desk.tree()), checkpointer.flush):
        with pytest.raises(InvalidArgument, match="closed"):
            call()
    assert reference.done() and checkpointer.stats.committed == 1 and len(checkpointer.list()) == 1
    assert local_desk.is_clean()


def test_newest_first_under_a_pressing_deadline(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    references = [checkpointer.save(local_desk.tree()) for _ in range(5)]
    checkpointer.close(timeout_s=DEADLINE_S, newest_first=True)
    assert all(reference.done() for reference in references)
    latest = local_desk.reader().latest(identity_of().pathspec)
    assert latest is not None and latest.version_id == 4


def test_a_scratch_folder_that_is_a_link_is_refused(thread_desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InvalidArgument, match="symbolic link"):
        thread_desk.open(scratch=tmp_path / "link")
    assert not os.listdir(tmp_path / "real")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_scratch_folder_of_somebody_else_is_refused(thread_desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o777)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(InvalidArgument, match="belongs to user 12345"):
        thread_desk.open(scratch=tmp_path / "theirs")


def test_a_spool_that_cannot_be_removed_is_said_and_fails_nothing(thread_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = thread_desk.open()
    reference = checkpointer.save(thread_desk.tree())

    def refuse(spool: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ckpt_async.supervisor.remove_spool", refuse)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert reference.done()
    assert sum("could not be removed: Permission denied" in line for line in thread_desk.said) == 1


@pytest.mark.parametrize("url", ["gs://", "s3://", "file://elsewhere/x", ""])
def test_an_address_without_a_store_is_refused_before_anything_is_made(tmp_path: Path, url: str) -> None:
    with pytest.raises(UnsupportedStore):
        open_checkpointer(identity_of(), StoreAddress(url), Settings(), scratch_root=str(tmp_path / "scratch"))
    assert not (tmp_path / "scratch").exists()


def test_the_same_attempt_in_another_process_is_refused(make_desk: MakeDesk, local_address: StoreAddress) -> None:
    desk = make_desk(local_address)
    task = desk.task()
    task.do("save", path=str(desk.tree()))
    with pytest.raises(SpoolBusy, match="another live process"):
        desk.open()
    task.do("close")
    assert desk.is_clean() and len(desk.records()) == 1


def test_a_task_that_never_saves_does_not_wait_for_its_sidecar(desk: Desk) -> None:
    checkpointer = desk.open()
    (sidecar,) = desk.sidecars()
    checkpointer.close(timeout_s=30)
    assert sidecar == os.getpid() or not alive(sidecar)
    assert desk.said == [] and desk.is_clean()
