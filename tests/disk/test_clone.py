"""One file made private, with a writer at work, on full disks, with shared blocks."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckpt_async.disk import clone
from ckpt_async.disk.clone import CloneMethod, choose_method, clone_stable
from ckpt_async.disk.scan import scan
from ckpt_async.words.errors import SnapshotFailed

BOTH = pytest.mark.parametrize("method", list(CloneMethod))


@pytest.mark.parametrize(
    ("size_bytes", "age_s", "reflink_works", "method"),
    [
        (2**32, 3600.0, True, CloneMethod.REFLINK),
        (2**32, 3600.0, False, CloneMethod.COPY),
        (2**32, 1.0, True, CloneMethod.COPY),  # still dirty: the reflink would wait for the disk
        (2**32, -5.0, True, CloneMethod.COPY),
        (10_000, 3600.0, True, CloneMethod.COPY),
    ],
)
def test_the_method_is_the_cheaper_one(size_bytes: int, age_s: float, reflink_works: bool, method: CloneMethod) -> None:
    assert choose_method(size_bytes=size_bytes, age_s=age_s, reflink_works=reflink_works) is method


@BOTH
@pytest.mark.parametrize("size_bytes", [0, 1, 4096, clone._CHUNK_BYTES + 17])
def test_a_clone_is_equal_and_independent(tmp_path: Path, method: CloneMethod, size_bytes: int) -> None:
    content = (b"0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    os.utime(source, ns=(7, 1_000_000_007))
    cloned = clone_stable(str(source), str(target), method)
    assert (cloned.size_bytes, cloned.mtime_ns) == (size_bytes, 1_000_000_007)
    assert source.stat().st_ino != target.stat().st_ino
    with source.open("r+b") as file:
        file.write(b"overwritten in place")
    assert target.read_bytes() == content


def test_without_sendfile_the_copy_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone.sys, "platform", "another")
    content = os.urandom(3_000_001)
    (tmp_path / "source").write_bytes(content)
    assert clone_stable(str(tmp_path / "source"), str(tmp_path / "target"), CloneMethod.REFLINK).method is CloneMethod.COPY
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_a_clone_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "source").chmod(0o644)
    before = os.umask(umask)
    try:
        clone_stable(str(tmp_path / "source"), str(tmp_path / "target"), CloneMethod.COPY)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o600


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("target", "link"):
        with pytest.raises(SnapshotFailed, match="File exists"):
            clone_stable(str(tmp_path / "source"), str(tmp_path / name), CloneMethod.COPY)
    assert (tmp_path / "target").read_bytes() == b"old"
    assert not (tmp_path / "elsewhere").exists()


def test_the_expected_state_is_demanded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"as it was")
    expected = scan(source).files[0]
    clone_stable(str(source), str(tmp_path / "good"), CloneMethod.COPY, expected=expected)
    source.write_bytes(b"as it is, which is longer")
    with pytest.raises(SnapshotFailed, match="changed since it was looked at"):
        clone_stable(str(source), str(tmp_path / "bad"), CloneMethod.COPY, expected=expected)
    assert sorted(os.listdir(tmp_path)) == ["good", "source"]


def test_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SnapshotFailed, match="removed while it was being saved"):
        clone_stable(str(tmp_path / "source"), str(tmp_path / "target"), CloneMethod.COPY)


def test_a_fifo_in_the_place_of_the_source_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "source")
    with pytest.raises(SnapshotFailed, match="no regular file"):
        clone_stable(str(tmp_path / "source"), str(tmp_path / "target"), CloneMethod.COPY)


def test_an_unreadable_source_is_named_as_in_a_scan(ordinary_user_folder: Path) -> None:
    source = ordinary_user_folder / "secret"
    source.write_bytes(b"x")
    source.chmod(0o000)
    with pytest.raises(SnapshotFailed, match=r"'secret' can't be read \(Permission denied\)") as caught:
        clone_stable(str(source), str(ordinary_user_folder / "target"), CloneMethod.COPY)
    assert "chmod u+r" in caught.value.hint


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """A writer that appends one letter after another until the block ends."""
    stop = threading.Event()
    started = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"a" * 1000)
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait(10)
    try:
        yield
    finally:
        stop.set()
        writer.join()


def test_a_writer_at_work_gets_one_state_or_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    outcomes = set()
    for number in range(20):
        source.write_bytes(b"a" * 200_000)
        target = tmp_path / f"target{number}"
        with appending(source):
            try:
                cloned = clone_stable(str(source), str(target), CloneMethod.COPY)
            except SnapshotFailed as error:
                assert "keeps changing" in error.cause
                assert "Close its writer before save()" in error.hint
                assert not target.exists()
                outcomes.add("refused")
            else:
                assert target.read_bytes() == b"a" * cloned.size_bytes
                outcomes.add("stored")
    assert outcomes


def test_a_file_that_changes_during_the_first_copies_is_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"first")
    send = clone.send_bytes
    later = [b"second, longer", b"3rd", b"the last one"]

    def send_then_change(*arguments: int) -> int:
        copied = send(*arguments)
        if later:
            source.write_bytes(later.pop(0))
        return copied

    monkeypatch.setattr(clone, "send_bytes", send_then_change)
    cloned = clone_stable(str(source), str(tmp_path / "target"), CloneMethod.COPY)
    assert (tmp_path / "target").read_bytes() == b"the last one"
    assert cloned.size_bytes == 12


def test_one_change_too_many_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0")
    send = clone.send_bytes
    copies = []

    def send_then_change(*arguments: int) -> int:
        copied = send(*arguments)
        copies.append(copied)
        source.write_bytes(b"x" * (len(copies) + 1))
        return copied

    monkeypatch.setattr(clone, "send_bytes", send_then_change)
    with pytest.raises(SnapshotFailed, match="keeps changing"):
        clone_stable(str(source), str(tmp_path / "target"), CloneMethod.COPY)
    assert len(copies) == 4
    assert os.listdir(tmp_path) == ["source"]


def test_a_source_replaced_by_rename_is_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"the new one")
    send = clone.send_bytes

    def replace_then_send(*arguments: int) -> int:
        if (tmp_path / "new").exists():
            os.replace(tmp_path / "new", source)
        return send(*arguments)

    monkeypatch.setattr(clone, "send_bytes", replace_then_send)
    clone_stable(str(source), str(tmp_path / "target"), CloneMethod.COPY)
    assert (tmp_path / "target").read_bytes() == b"old"


def test_a_full_disk_says_what_is_free_and_what_is_needed(tmp_path: Path, tiny_disk: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(8_000_000))
    with pytest.raises(SnapshotFailed, match=r"the disk is full: 8,000,000 bytes were still needed, [\d,]+ bytes are free"):
        clone_stable(str(source), str(tiny_disk / "target"), CloneMethod.COPY)
    assert os.listdir(tiny_disk) == []


def test_shared_blocks_are_private(sharing_disk: Path) -> None:
    content = os.urandom(3_000_001)
    source, target = sharing_disk / "source", sharing_disk / "target"
    source.write_bytes(content)
    assert clone_stable(str(source), str(target), CloneMethod.REFLINK).method is CloneMethod.REFLINK
    with source.open("r+b") as file:
        file.write(b"overwritten in place")
    assert target.read_bytes() == content


def test_blocks_are_not_shared_across_file_systems(tmp_path: Path, sharing_disk: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 5000)
    assert clone_stable(str(tmp_path / "source"), str(sharing_disk / "target"), CloneMethod.REFLINK).method is CloneMethod.COPY
    assert (sharing_disk / "target").read_bytes() == b"x" * 5000
