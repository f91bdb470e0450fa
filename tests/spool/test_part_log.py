from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.spool.part_log import PART_LOG_FILE, PartLog


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PartLog]:
    log = PartLog(str(tmp_path))
    yield log
    log.close()


def numbers(folder: Path) -> list[int]:
    return [note["n"] for note in PartLog(str(folder)).read()]


def test_notes_are_there_for_the_next_worker(log: PartLog, tmp_path: Path) -> None:
    assert log.read() == []
    for number in range(3):
        log.append({"n": number, "text": "größe\nline"})
        assert numbers(tmp_path) == list(range(number + 1))
    assert stat.S_IMODE((tmp_path / PART_LOG_FILE).stat().st_mode) == 0o600
    log.restart()
    assert log.read() == []
    log.append({"n": 9})
    assert numbers(tmp_path) == [9]
    log.close()
    log.close()


def test_a_tail_that_was_cut_off_at_any_byte_costs_that_note_alone(tmp_path: Path) -> None:
    path = tmp_path / PART_LOG_FILE
    whole = b'{"n": 0}\n{"n": 1}\n'
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        known = whole[:end].count(b"\n")
        assert numbers(tmp_path) == list(range(known))
        log = PartLog(str(tmp_path))
        log.append({"n": 7})
        log.append({"n": 8})
        log.close()
        assert numbers(tmp_path) == [*range(known), 7, 8]


@pytest.mark.parametrize("garbage", [b"\0" * 40, b"\xff\xfe", b"}", b"", b"[" * 9])
def test_behind_a_damaged_line_nothing_is_believed(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / PART_LOG_FILE).write_bytes(b'{"n": 0}\n' + garbage + b'\n{"n": 2}\n')
    assert numbers(tmp_path) == [0]


class Disk:
    """Stands in for a disk that is full at a chosen write. A real one can't be made without privileges."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writes: int, cut: int | None) -> None:
        self._write, self._left, self._cut = os.write, writes, cut
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, content: bytes) -> int:
        self._left -= 1
        if self._left >= 0:
            return self._write(descriptor, content)
        if self._left == -1 and self._cut is not None:
            return self._write(descriptor, content[: self._cut])
        if self._left < -2:
            return self._write(descriptor, content)  # there is room again
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize("cut", [None, 1, 5])
def test_a_full_disk_leaves_a_beginning_and_no_gap(
    log: PartLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, cut: int | None
) -> None:
    with monkeypatch.context() as patch:
        Disk(patch, writes, cut)
        for number in range(6):
            log.append({"n": number})
    assert numbers(tmp_path) == list(range(writes))
    log.close()
    later = PartLog(str(tmp_path))
    later.append({"n": writes})
    later.close()
    assert numbers(tmp_path) == list(range(writes + 1))


def test_another_failure_of_the_disk_is_told(log: PartLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, content: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    log.append({"n": 0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", broken)
        with pytest.raises(OSError, match="Input/output"):
            log.append({"n": 1})


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    log = PartLog(str(tmp_path / "gone"))
    assert log.read() == []
    with pytest.raises(FileNotFoundError):
        log.append({"n": 0})
