"""Whatever is done to a saved file afterwards, on any file system: what is stored is what it held at the call."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from pathlib import Path

import pytest

from ckpt_async import Checkpointer, SnapshotFailed
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from tests.engine.desk import Desk, paused, read_tree, wait_for
from tests.guard.leases import Mapping, leased_inodes
from tests.guard.writers import CASES, SIZE, plain

MIB = 1024 * 1024


def test_every_kind_of_overwrite(desk_at: Desk, seaweed: SeaweedServer) -> None:
    cases = [case for case in CASES if not case.needs or importlib.util.find_spec(case.needs)]
    tree = desk_at.folder / "data"
    for case in cases:
        (tree / case.name).mkdir(parents=True)
        case.write(tree / case.name / "file")
    before = read_tree(tree)
    checkpointer = desk_at.open()
    desk_at.sidecars()
    with paused(seaweed):
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": len(cases)}
        for case in cases:
            case.change(tree / case.name / "file")
            # Also the pages of a mapping, which reach the disk later.
    left = read_tree(tree)
    assert all(left.get(name) != content for name, content in before.items())
    checkpointer.flush()
    stored = desk_at.content(reference)
    assert [name for name in before if stored.get(name) != before[name]] == []
    checkpointer.close(timeout_s=30)
    assert desk_at.is_clean()


def test_what_is_open_for_writing_at_the_call(desk_at: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = desk_at.open()
    desk_at.sidecars()
    for closed in (False, True):
        _a_mapping_is_seen(desk_at, checkpointer, seaweed, closed=closed)
    _an_open_file_is_copied(desk_at, checkpointer, seaweed)


def _a_mapping_is_seen(desk_at: Desk, checkpointer: Checkpointer, seaweed: SeaweedServer, *, closed: bool) -> None:
    tree = desk_at.tree({"mapped": os.urandom(SIZE), "other": os.urandom(SIZE)}, name=f"mapped-{closed}")
    before = read_tree(tree)
    with Mapping(tree / "mapped", keep_descriptor=not closed) as mapping, paused(seaweed):
        mapping.write(0, b"seen already")  # this page is dirty: later stores to it change no time of the file
        before["mapped"] = b"seen already" + before["mapped"][12:]
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 1, "copy": 1} or reference.state.methods == {"link": 1, "packed": 1}
        mapping.write(0, b"after the call")
        mapping.write(SIZE - 5000, b"after the call")
    checkpointer.flush()
    assert desk_at.content(reference) == before


def _an_open_file_is_copied(desk_at: Desk, checkpointer: Checkpointer, seaweed: SeaweedServer) -> None:
    tree = desk_at.tree({"log": os.urandom(2 * MIB), "small": b"1"}, name="open")
    with open(tree / "log", "r+b", buffering=0) as file, paused(seaweed):
        before = read_tree(tree)
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"copy": 1, "packed": 1}
        file.write(b"after the call")
        file.truncate(MIB)
    checkpointer.flush()
    assert desk_at.content(reference) == before


def test_an_overwrite_in_the_middle_of_the_upload(desk_at: Desk, line: SlowLine) -> None:

    tree = desk_at.tree({"model": os.urandom(40 * MIB)})
    before = read_tree(tree)
    checkpointer = desk_at.open()
    desk_at.sidecars()
    line.set_rate(100 * MIB)
    reference = checkpointer.save(tree)
    assert reference.state.methods == {"link": 1}
    line.wait_for_upstream(17 * MIB)
    plain(tree / "model")
    checkpointer.flush()
    assert desk_at.content(reference) == before
    assert checkpointer.stats.sent_bytes == 40 * MIB, "what was sent stays valid"


def test_saves_that_share_a_file_are_made_private_with_one_copy(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"data": os.urandom(4 * MIB), "state": os.urandom(MIB)})
    checkpointer = desk.open()
    desk.sidecars()
    inode = (tree / "data").stat().st_ino
    with paused(seaweed):
        contents, references = [], []
        for _ in range(3):
            contents.append(read_tree(tree))
            references.append(checkpointer.save(tree))
            plain(tree / "state")
        # A single look at the kernel's list may miss a lease, or see it twice.
        wait_for(lambda: leased_inodes(tree).count(inode) == 1, "one lease serves the three links")
        links = [path for path in desk.scratch.rglob("f00*") if path.stat().st_size == 4 * MIB]
        (tree / "data").write_bytes(b"gone")
        assert len(links) == 3 and len({path.stat().st_ino for path in links}) == 1
    checkpointer.flush()
    assert [desk.content(reference) for reference in references] == contents
    checkpointer.close(timeout_s=30)
    assert desk.is_clean()


def test_a_writer_that_holds_the_lock_of_python_is_not_waited_for_by_itself(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(64 * MIB)})
    before = read_tree(tree)
    checkpointer = desk.open()
    desk.sidecars()
    # Unlike CDLL it keeps Python's lock during the call: no thread of this process runs until the open() returns.
    opening = ctypes.PyDLL(None, use_errno=True).open
    with paused(seaweed):
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 1}
        descriptor = opening(os.fsencode(tree / "model"), os.O_WRONLY | os.O_TRUNC)
        assert descriptor >= 0, os.strerror(ctypes.get_errno())
        os.write(descriptor, b"new")
        os.close(descriptor)
    checkpointer.flush()
    assert desk.content(reference) == before


def test_many_writers_at_once(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({f"{number:03d}": os.urandom(MIB) for number in range(40)})
    before = read_tree(tree)
    checkpointer = desk.open()
    desk.sidecars()
    with paused(seaweed):
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 40}
        threads = [threading.Thread(target=plain, args=(tree / name,)) for name in before]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert leased_inodes(tree) == []
    checkpointer.flush()
    assert desk.content(reference) == before


def test_links_are_let_go_once_their_checkpoint_is_stored(desk: Desk) -> None:
    tree = desk.tree({"model": os.urandom(MIB)})
    checkpointer = desk.open()
    desk.sidecars()
    checkpointer.save(tree)
    checkpointer.flush()
    # Not broken, not copied: nothing stands between a writer and its file any more.
    os.close(os.open(tree / "model", os.O_RDWR | os.O_NONBLOCK))
    assert (tree / "model").stat().st_nlink == 1


def test_a_dropped_save_is_let_go(desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = desk.open(max_pending=2, on_full="drop_oldest")
    desk.sidecars()
    with paused(seaweed):
        references = []
        for number in range(4):
            references.append(checkpointer.save(desk.tree({"model": os.urandom(MIB)}, name=f"tree-{number}")))
        assert [reference.status for reference in references].count("dropped") == 2
        for number in range(4):
            plain(desk.folder / f"tree-{number}" / "model")
    checkpointer.flush()
    checkpointer.close(timeout_s=30)
    assert desk.is_clean()


def test_what_was_chosen_is_done(desk: Desk) -> None:
    tree = desk.tree({"model": os.urandom(MIB), "medium": os.urandom(300 * 1024), "small": b"1"})
    checkpointer = desk.open()
    desk.sidecars()
    assert checkpointer.save(tree).state.methods == {"link": 2, "packed": 1}
    checkpointer.close(timeout_s=30)
    checkpointer = desk.open(run="2", snapshot="copy")
    assert checkpointer.save(tree).state.methods == {"copy": 1, "packed": 2}
    checkpointer.close(timeout_s=30)
    checkpointer = desk.open(run="3", worker="thread")
    assert checkpointer.save(tree).state.methods == {"copy": 1, "packed": 2}
    checkpointer.close(timeout_s=30)


def test_link_refuses_what_can_not_be_linked(desk: Desk) -> None:
    tree = desk.tree({"model": os.urandom(MIB), "log": os.urandom(MIB), "small": b"1"})
    checkpointer = desk.open(snapshot="link")
    desk.sidecars()
    with open(tree / "log", "ab"):
        with pytest.raises(SnapshotFailed, match=r"'log' is not linked: a program has it open for writing.*snapshot='auto'"):
            checkpointer.save(tree)
    assert desk.records() == []
    wait_for(lambda: not leased_inodes(tree), "what a failed save had linked is let go")
    assert (tree / "model").stat().st_nlink == 1
    reference = checkpointer.save(tree)
    assert reference.state.methods == {"link": 2, "packed": 1}
    checkpointer.flush()
    assert desk.content(reference) == read_tree(tree)


def test_a_symbolic_link_is_followed(desk: Desk, seaweed: SeaweedServer, tmp_path: Path) -> None:
    real = desk.tree({"weights": os.urandom(MIB)}, name="real")
    tree = desk.tree({}, name="links")
    (tree / "weights").symlink_to(real / "weights")
    before = (real / "weights").read_bytes()
    checkpointer = desk.open()
    desk.sidecars()
    with paused(seaweed):
        reference = checkpointer.save(tree)
        assert reference.state.methods == {"link": 1}
        plain(tree / "weights")
    checkpointer.flush()
    assert desk.content(reference) == {"weights": before}
