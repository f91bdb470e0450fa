"""``durability="machine"``: what a reference calls durable survives a power failure, at whatever moment it comes. What was not
called so may be lost, and stops no retry.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckpt_async.assembly import open_checkpointer
from ckpt_async.reference import CheckpointReference
from ckpt_async.testing.crash_plan import Journal
from ckpt_async.testing.crash_scenario import Place, recover, save, write_content
from ckpt_async.words.events import EntryDurable, WorkerReady
from ckpt_async.words.settings import Settings, StoreAddress
from ckpt_async.worker import guard_client, sidecar_client
from tests.faults import power_sidecar
from tests.faults.away import be_away_while
from tests.faults.power import Disk, Node, write_down

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked up in /proc"),
]

SAVES = 3
TIMEOUT_S = 30.0
CUTS = 12


@dataclass(frozen=True)
class Cut:
    """A power failure: the two extremes of what the disk of the task has, what the store has, and which saves had been called
    durable.
    """

    left: tuple[Node, Node]
    store: Path
    durable: dict[int, str]


class DiskServer:
    """Passes on to a disk what sidecars tell. A context manager."""

    def __init__(self, disk: Disk, address: str) -> None:
        self._disk = disk
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(address)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, name="disk-server")

    def __enter__(self) -> DiskServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    what, *words = json.loads(line)
                    getattr(self._disk, what)(*words)
                    connection.sendall(b".")


class Scene:
    """A task under watch, in this process; its worker is in this one too, or in a sidecar."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("store", "disk", "data"):
            (folder / name).mkdir()
        # The folder of the spools, and the one around it, are made by the engine.
        self.place = Place(str(folder), StoreAddress(str(folder / "store")))
        self.scratch = folder / "disk" / "made" / "scratch"
        self.away = folder / "away"
        self.references: list[CheckpointReference] = []
        self.cuts: list[Cut] = []
        be_away_while(str(self.away), monkeypatch.setattr)
        self.disk = Disk(folder / "disk", folder / "data", self.cut)
        self.disk.install(monkeypatch)
        replaced = SimpleNamespace(Popen=self._start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr(sidecar_client, "subprocess", replaced)

    def _start(self, command: list[str], *, env: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
        spec = {"home": str(Path(__file__).parents[2]), "away": str(self.away), "address": str(self.folder / "socket")}
        arguments = command[command.index("ckpt_async.sidecar") + 1 :]
        env = {**env, power_sidecar.VARIABLE: json.dumps(spec)}
        return subprocess.Popen([sys.executable, power_sidecar.__file__, *arguments], env=env, **more)

    def cut(self) -> None:
        """Keep the state of this moment."""
        with self.disk.guard:
            # First who is durable: one that becomes so meanwhile is not yet asked for.
            durable = {one.record.metadata["number"]: one["key"] for one in list(self.references) if one.durable}
            left = self.disk.strictly(), self.disk.with_all_names()
            # Last: what leaves the spool meanwhile has been stored before.
            store = self.folder / "stores" / str(len(self.cuts))
            shutil.copytree(self.folder / "store", store, ignore=shutil.ignore_patterns(".ckpt-async-tmp"))
            self.cuts.append(Cut(left, store, durable))

    def run(self, worker: str, durability: str) -> None:
        """Save while the store is away; let it come back; flush; end."""
        self.away.touch()
        settings = Settings(async_upload=True, worker=worker, flush_timeout_s=TIMEOUT_S, durability=durability)
        with DiskServer(self.disk, str(self.folder / "socket")):
            opened = open_checkpointer(
                self.place.identity(0), self.place.address, settings, scratch_root=str(self.scratch), say=lambda _line: None
            )
            ready = threading.Event()
            opened.add_listener(lambda event: ready.set() if isinstance(event, WorkerReady) else None)
            opened.add_listener(lambda event: self.cut() if isinstance(event, EntryDurable) else None)
            # A sidecar that is up links; a thread may have been ready before anybody listened.
            assert worker == "thread" or ready.wait(TIMEOUT_S)
            for number in range(SAVES):
                write_content(self.place.data, number)
                self.cut()
                self.references.append(save(opened, self.place, number))
                if durability == "machine" and number != 1:
                    # What is linked is overwritten both before and after it has been called durable.
                    assert opened._ledger.wait_until(lambda: all(one.durable for one in self.references), TIMEOUT_S)
            write_content(self.place.data, SAVES)
            self.cut()
            self.away.unlink()
            opened.flush()
            opened.close(timeout_s=TIMEOUT_S)
            self.cut()
        self.disk.watching = False

    def after(self, cut: Cut, left: Node) -> list[str]:
        """Switch the machine on again; return the promises that were broken to the saves that were called durable."""
        shutil.rmtree(self.folder / "disk")
        (self.folder / "disk").mkdir()
        write_down(left, self.folder / "disk")
        shutil.rmtree(self.folder / "store")
        shutil.copytree(cut.store, self.folder / "store")
        if os.path.exists(self.place.journal):
            os.unlink(self.place.journal)
        journal = Journal(self.place.journal)
        try:
            for number, key in cut.durable.items():
                journal.note("saved", number=number, key=key)
            found = recover(_Elsewhere(self.place.folder, self.place.address), journal)
        finally:
            journal.close()
        # What was not called durable may be torn, and then stays in its spool, as damage that is told.
        return [text for text in found if text.startswith(("lost", "half there", "latest")) or "dangles" in text]


class _Elsewhere(Place):
    @property
    def scratch(self) -> str:
        return os.path.join(self.folder, "disk", "made", "scratch")


@pytest.fixture
def scene(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with monkeypatch.context() as patches:
        # The watching holds the guard up: on a busy machine it would not answer in time, and nothing would be linked.
        patches.setattr(guard_client, "ANSWER_TIMEOUT_S", TIMEOUT_S)
        yield Scene(quick_folder, patches)


@pytest.mark.parametrize("worker", ["thread", "process"])
def test_what_is_called_durable_survives_a_power_failure(scene: Scene, worker: str) -> None:
    scene.run(worker, "machine")
    assert {0, 1, SAVES} <= {len(cut.durable) for cut in scene.cuts}
    if worker == "process":
        assert [one.state.methods for one in scene.references] == [{"link": 2, "packed": 4}] * SAVES
    every = max(1, len(scene.cuts) // CUTS)
    for cut in [*scene.cuts[::every], scene.cuts[-1]]:
        for left in cut.left:
            assert not scene.after(cut, left)


def test_without_it_a_power_failure_takes_what_was_not_stored(scene: Scene) -> None:
    # The other way round: this test can tell.
    scene.run("thread", "process")
    before_the_store_came_back = next(cut for cut in reversed(scene.cuts) if not cut.durable)
    told = {one.record.metadata["number"]: one["key"] for one in scene.references}
    for left in before_the_store_came_back.left:
        # What was not stored is lost, and the retry goes on all the same.
        assert not scene.after(before_the_store_came_back, left)
        cut = Cut((left, left), before_the_store_came_back.store, told)
        assert any(text.startswith("lost") for text in scene.after(cut, left))
