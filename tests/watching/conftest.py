"""A watched folder, with a checkpointer over a local store, and writers in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_async import Checkpointer, CheckpointRecord, StoreAddress, Watcher, WatchRules
from tests.engine.conftest import local_address as local_address, make_desk as make_desk
from tests.engine.desk import DEADLINE_S, Desk, identity_of, wait_for

PROGRAMS = Path(__file__).parent / "programs"
QUIET_S = 0.25


def is_whole(content: bytes) -> bool:
    """Whether a file is one that a writer of the tests has finished: its end tells what stands before it."""
    body, _, sum_of_body = content.rpartition(b"\n")
    return sum_of_body == b"%08x" % zlib.crc32(body)


def whole(text: str) -> bytes:
    """The content of a finished file."""
    return b"%s\n%08x" % (text.encode(), zlib.crc32(text.encode()))


class Watching:
    """A folder, watched; at its end nothing runs any more.

    Attributes
    ----------
    folder : Path
        What is watched.
    said : list of str
        By the watcher.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.folder = folder
        self.said: list[str] = []
        self.checkpointer: Checkpointer = desk.open()
        self._watchers: list[Watcher] = []
        self._writers: list[subprocess.Popen[str]] = []

    def watch(self, **rules: object) -> Watcher:
        more = {name: rules.pop(name) for name in ("known", "stored") if name in rules}
        watcher = Watcher(
            self.checkpointer,
            str(self.folder),
            WatchRules(**{"quiet_s": QUIET_S, "max_wait_s": DEADLINE_S, **rules}),  # type: ignore[arg-type]
            say=self.said.append,
            **more,  # type: ignore[arg-type]
        )
        self._watchers.append(watcher)
        return watcher

    def write(self, *what: str) -> subprocess.Popen[str]:
        """Start a writer, which says ``ready`` when it has begun; see ``programs/writer.py``."""
        writer = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "writer.py"), str(self.folder), *what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._writers.append(writer)
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        return writer

    def written(self, writer: subprocess.Popen[str]) -> None:
        """Wait until a writer has ended."""
        assert writer.wait(DEADLINE_S) == 0

    def saves(self, count: int) -> None:
        """Wait until so many saves were taken."""
        wait_for(lambda: self.checkpointer.stats.saves >= count, f"{count} saves; it said {self.said}")

    def says(self, text: str) -> None:
        """Wait until this was said."""
        wait_for(lambda: any(text in line for line in list(self.said)), f"{text!r} is said; it said {self.said}")

    def stored(self) -> list[dict[str, bytes]]:
        """The files of all checkpoints, oldest first."""
        self.checkpointer.flush(DEADLINE_S)
        return [self.desk.content(record) for record in reversed(self.records())]

    def records(self) -> list[CheckpointRecord]:
        return self.desk.reader().list(identity_of().pathspec)

    def records_after_flush(self) -> list[CheckpointRecord]:
        self.checkpointer.flush(DEADLINE_S)
        return self.records()

    def end(self) -> None:
        for writer in self._writers:
            if writer.poll() is None:
                writer.kill()
            writer.communicate()
        for watcher in self._watchers:
            watcher.stop(failed=True, timeout_s=DEADLINE_S)


MakeWatching = Callable[..., Watching]


@pytest.fixture
def make_watching(make_desk: Callable[..., Desk], local_address: StoreAddress, tmp_path: Path) -> Iterator[MakeWatching]:
    """Make what is to be watched, with the worker in a process or in a thread."""
    made: list[Watching] = []

    def make(worker: str = "process") -> Watching:
        folder = tmp_path / "watched"
        folder.mkdir(exist_ok=True)
        made.append(Watching(make_desk(local_address, worker), folder))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def watching(make_watching: MakeWatching) -> Watching:
    """With a sidecar, whose guard tells who writes."""
    return make_watching()
