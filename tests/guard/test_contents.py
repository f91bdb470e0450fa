"""The guard's names for what files hold, over everything that may be done to a file between two saves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from ckpt_async.disk.lease import BREAK_SIGNAL
from ckpt_async.disk.linking import Guarded, link_files
from ckpt_async.disk.scan import scan
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.words.settings import Settings
from ckpt_async.worker.contents import TELLING_FILE_SYSTEMS
from ckpt_async.worker.guarded import GuardedLinks
from tests.guard.leases import Mapping
from tests.guard.test_limits import GuardHere

SIZE = 300 * 1024
AN_HOUR_NS = 3600 * 10**9


class Saves:
    """Links of one file in one spool, one after another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "file"
        self.path.parent.mkdir()
        self.path.write_bytes(os.urandom(SIZE))
        self.age()
        self._spool = Spool.create(str(folder / "spool" / "0000"), SpoolHeader(StoreAddress("/nowhere"), Settings()))
        os.makedirs(self._spool.private_folder, exist_ok=True)
        self.guard = GuardHere(self._spool)
        self._version = 0

    @property
    def links(self) -> GuardedLinks:
        return self.guard.links

    def age(self) -> None:
        """Let the file have been written long ago."""
        os.utime(self.path, ns=(self.path.stat().st_mtime_ns - AN_HOUR_NS,) * 2)

    def drop(self, version: int) -> None:
        self._spool.discard(version)
        self.links.held.sweep()

    def take(self, *, stored: bool = True) -> str:
        """Link the file; return the name of its content, or why it was not linked. `stored`: the link is let go of at once."""
        self._version += 1
        folder = self._spool.stage(self._version)
        try:
            result = link_files(scan(self.path.parent).files, folder, self.guard)
        finally:
            if stored:
                self.drop(self._version)
        (answer,) = [state for _, state in result.linked.values()] or result.refused.values()
        return answer.content if isinstance(answer, Guarded) else answer


@pytest.fixture
def saves(place: Path) -> Iterator[Saves]:
    # The signal of a broken lease would end this process, which has no guard's thread.
    before = signal.signal(BREAK_SIGNAL, signal.SIG_IGN)
    saves = Saves(place)
    try:
        yield saves
    finally:
        saves.links.held.close()
        signal.signal(BREAK_SIGNAL, before)


def _write_through_a_mapping(path: Path) -> None:
    with Mapping(path, keep_descriptor=False) as mapping:
        path.read_bytes()
        mapping.read(0, SIZE)  # on tmpfs, a page that was read first tells nobody of a store
        mapping.write(5, b"x")


def _write_and_set_the_time_back(path: Path) -> None:
    found = path.stat()
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _replace_by_an_equal_file(path: Path) -> None:
    found, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.replace(other, path)


CHANGES: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(os.urandom(SIZE)),
    lambda path: os.utime(path),
    _write_and_set_the_time_back,
    _write_through_a_mapping,
    _replace_by_an_equal_file,
]


def test_only_a_file_that_nobody_can_have_written_to_keeps_the_name_of_its_content(saves: Saves) -> None:
    held = saves.take(stored=False)
    assert saves.take(stored=False) == held, "under one lease, on every file system"
    for version in (1, 2):
        saves.drop(version)
    told = set(saves.links.held._kinds.values()) <= TELLING_FILE_SYSTEMS
    assert (saves.take() == held) is told
    for change in CHANGES:
        saves.age()
        before = saves.take()
        saves.path.read_bytes()
        assert (saves.take() == before) is told
        change(saves.path)
        assert saves.take() != before
    # Written just now: the clock may not have moved since.
    saves.path.write_bytes(os.urandom(SIZE))
    assert saves.take() != saves.take()
