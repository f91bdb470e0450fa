"""What was saved is what is loaded: kinds of trees and formats, names, metadata, the list and the pointer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_async import CheckpointNotFound, InvalidArgument, LoadTargetNotEmpty, SnapshotFailed
from ckpt_async.words.events import EntryCommitted, EntrySaved, EntryStarted
from tests.engine.desk import Desk, identity_of, read_tree

# One file above the limit of packing, and enough of small ones.
FILES = {
    "model.bin": os.urandom(3 * 1024 * 1024 + 7),
    "optimizer/state 1.bin": b"momentum" * 1000,
    "optimizer/empty": b"",
    "ünïcode ~.txt": "é".encode(),
}


def test_what_is_saved_is_loaded(desk: Desk) -> None:
    tree = desk.tree(FILES)
    (tree / "nothing" / "in here").mkdir(parents=True)
    (tree / "model.bin").chmod(0o640)
    checkpointer = desk.open()
    files = checkpointer.save(tree, name="as files", metadata={"epoch": 3, "loss": 0.5})
    tar = checkpointer.save(tree, name="as.tar", storage_format="tar")
    single = checkpointer.save(tree / "model.bin", name="single")
    empty = checkpointer.save(desk.tree({}, "empty"), name="empty")
    checkpointer.flush()

    assert all(reference.done() and reference.status == "committed" for reference in (files, tar, single, empty))
    for reference in (files, tar):
        loaded = desk.load(reference)
        assert read_tree(loaded) == FILES
        assert (loaded / "nothing" / "in here").is_dir()
        assert (loaded / "model.bin").stat().st_mode & 0o777 == 0o640
        assert (loaded / "model.bin").stat().st_mtime_ns == (tree / "model.bin").stat().st_mtime_ns
    assert desk.content(single) == {"model.bin": FILES["model.bin"]}
    assert desk.content(empty) == {}

    listed = checkpointer.list()
    assert [record.name for record in listed] == ["empty", "single", "as.tar", "as files"]
    assert [record.version_id for record in listed] == [3, 2, 1, 0]
    assert listed[-1].metadata == {"epoch": 3, "loss": 0.5}
    assert listed[-1].size_bytes == sum(map(len, FILES.values()))
    assert [record.to_dict() for record in reversed(listed)] == [dict(one) for one in (files, tar, single, empty)]
    checkpointer.close(timeout_s=30)
    assert desk.is_clean()


def test_the_newest_save_that_may_be_is_the_latest(desk: Desk) -> None:
    checkpointer = desk.open()
    first = checkpointer.save(desk.tree({"a": b"1"}))
    checkpointer.save(desk.tree({"a": b"2"}), name="aside", latest=False)
    checkpointer.close(timeout_s=30)

    latest = desk.reader().latest(identity_of().pathspec)
    assert latest is not None and latest.key == first["key"]
    assert [record.name for record in desk.records(name="aside")] == ["aside"]

    later = desk.open(1)
    target = desk.target()
    record = later.resume("fresh", str(target))
    assert record is not None and record.key == first["key"]
    assert read_tree(target) == {"a": b"1"}


def test_a_listener_hears_the_story_of_a_save(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    reference = checkpointer.save(local_desk.tree(FILES))
    checkpointer.flush()
    story = [type(event) for event in local_desk.events if getattr(event, "entry", "") == reference.state.entry]
    kinds = (EntrySaved, EntryStarted, EntryCommitted)
    assert [kind for kind in story if kind in kinds] in ([*kinds], [EntryStarted, EntrySaved, EntryCommitted])
    size_bytes = sum(map(len, FILES.values()))
    stats = checkpointer.stats
    assert (stats.saves, stats.committed, stats.saved_bytes, stats.sent_bytes) == (1, 1, size_bytes, size_bytes)
    assert stats.blocked_s > 0 and stats.upload_s > 0 and stats.waited_s == 0
    assert checkpointer.pending.saves == checkpointer.pending.size_bytes == 0


def test_a_synchronous_save_returns_with_the_checkpoint_in_the_store(local_desk: Desk) -> None:
    checkpointer = local_desk.open(async_upload=False)
    assert not local_desk.events, "a task that saves nothing needs no worker"
    reference = checkpointer.save(local_desk.tree(FILES))
    assert reference.done()
    assert local_desk.content(reference) == FILES
    checkpointer.close(timeout_s=30)
    assert local_desk.is_clean()


def test_load_waits_for_a_save_of_its_own(local_desk: Desk) -> None:
    checkpointer = local_desk.open()
    reference = checkpointer.save(local_desk.tree(FILES))
    target = local_desk.target()
    checkpointer.load(reference, str(target))
    assert read_tree(target) == FILES
    with pytest.raises(LoadTargetNotEmpty):
        checkpointer.load(reference["key"], str(target))


@pytest.mark.parametrize("name", ["", "x" * 200, 7, "a\ud800"])
def test_a_name_that_cannot_be_is_refused(thread_desk: Desk, name: object) -> None:
    checkpointer = thread_desk.open()
    with pytest.raises(InvalidArgument, match="name"):
        checkpointer.save(thread_desk.tree(), name=name)  # type: ignore[arg-type]
    assert checkpointer.stats.saves == 0


@pytest.mark.parametrize("name", ["a.b/../c d", "~2E", "模型", "latest", ".", "x" * 180])
def test_a_name_that_looks_odd_comes_back(thread_desk: Desk, name: str) -> None:
    checkpointer = thread_desk.open()
    reference = checkpointer.save(thread_desk.tree(), name=name)
    checkpointer.flush()
    assert [record.name for record in checkpointer.list(name=name)] == [name]
    assert thread_desk.content(reference["key"]) == {"model.bin": b"weights"}


def test_arguments_are_refused_before_anything_is_done(local_desk: Desk, tmp_path: Path) -> None:
    checkpointer = local_desk.open()
    with pytest.raises(InvalidArgument, match="storage_format='zip'"):
        checkpointer.save(local_desk.tree(), storage_format="zip")
    with pytest.raises((InvalidArgument, SnapshotFailed), match="no-such"):
        checkpointer.save(tmp_path / "no-such-folder")
    with pytest.raises(InvalidArgument, match="spool stands inside"):
        checkpointer.save(tmp_path)
    with pytest.raises(InvalidArgument, match="spool stands inside"):
        checkpointer.save(local_desk.scratch)
    for path in ("", "a\0b", b"bytes", 7, None):
        with pytest.raises(InvalidArgument, match="it is not the path"):
            checkpointer.save(path)  # type: ignore[arg-type]
    with pytest.raises(CheckpointNotFound):
        checkpointer.load("mf.checkpoints/checkpoints/artifacts/Flow/train/scope/task/12345678.0.x.0", str(tmp_path / "t"))
    with pytest.raises(InvalidArgument, match="policy='newest'"):
        checkpointer.resume("newest", str(tmp_path / "t"))
    assert checkpointer.stats.saves == 0
    checkpointer.close(timeout_s=30)
    assert local_desk.is_clean()
