"""``durability="machine"``: what a reference calls durable survives a power failure, at whatever moment it comes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ckpt_async import assembly
from ckpt_async.assembly import open_checkpointer
from ckpt_async.reference import CheckpointReference
from ckpt_async.stores import opening, retrying
from ckpt_async.testing.crash_plan import Journal
from ckpt_async.testing.crash_scenario import Place, recover, save, write_content
from ckpt_async.words.events import EntryDurable
from ckpt_async.words.settings import Settings, StoreAddress
from ckpt_async.worker import uploader
from tests.faults.power import Disk, Node, copy_of, write_down
from tests.faults.weather import Weather, WeatherStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors are looked up in /proc"),
]

SAVES = 3
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Cut:
    """A power failure: what the disk of the task has, what the store has, and which saves had been called durable."""

    scratch: Node
    store: Path
    durable: dict[int, str]


class Scene:
    """A task under watch, in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "store").mkdir()
        (folder / "disk").mkdir()
        # The folder of the spools, and the one around it, are made by the engine.
        self.place = Place(str(folder), StoreAddress(str(folder / "store")))
        self.scratch = folder / "disk" / "made" / "scratch"
        self.weather = Weather(down=True)
        self.references: list[CheckpointReference] = []
        self.cuts: list[Cut] = []
        monkeypatch.setattr(retrying, "FIRST_BACKOFF_S", 0.005)
        monkeypatch.setattr(retrying, "LAST_BACKOFF_S", 0.02)
        monkeypatch.setattr(uploader, "ENTRY_RETRY_S", 0.01)
        monkeypatch.setattr(
            assembly, "open_store", lambda address, pace=None: WeatherStore(opening.open_store(address), self.weather)
        )
        self.disk = Disk(folder / "disk", self.cut)
        self.disk.install(monkeypatch)

    def cut(self) -> None:
        """Keep the state of this moment."""
        with self.disk.guard:
            # First who is durable: one that becomes so meanwhile is not yet asked for.
            durable = {one.record.metadata["number"]: one["key"] for one in list(self.references) if one.durable}
            store = self.folder / "stores" / str(len(self.cuts))
            shutil.copytree(self.folder / "store", store, ignore=shutil.ignore_patterns(".ckpt-async-tmp"))
            self.cuts.append(Cut(copy_of(self.disk.root), store, durable))

    def run(self, durability: str) -> None:
        """Save while the store is away; let it come back; flush; end."""
        settings = Settings(async_upload=True, worker="thread", flush_timeout_s=TIMEOUT_S, durability=durability)
        opened = open_checkpointer(
            self.place.identity(0), self.place.address, settings, scratch_root=str(self.scratch), say=lambda _line: None
        )
        opened.add_listener(lambda event: self.cut() if isinstance(event, EntryDurable) else None)
        for number in range(SAVES):
            write_content(self.place.data, number)
            self.references.append(save(opened, self.place, number))
        if durability == "machine":
            assert opened._ledger.wait_until(lambda: all(one.durable for one in self.references), TIMEOUT_S)
        self.cut()
        self.weather.down = False
        opened.flush()
        opened.close(timeout_s=TIMEOUT_S)
        self.cut()

    def after(self, cut: Cut) -> list[str]:
        """Switch the machine on again; return the promises that were broken to the saves that were called durable."""
        shutil.rmtree(self.folder / "disk")
        (self.folder / "disk").mkdir()
        write_down(cut.scratch, self.folder / "disk")
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
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with monkeypatch.context() as patches:
        yield Scene(tmp_path, patches)


def test_what_is_called_durable_survives_a_power_failure(scene: Scene) -> None:
    scene.run("machine")
    assert {0, 1, 3} <= {len(cut.durable) for cut in scene.cuts}
    cuts = [cut for cut in scene.cuts if cut.durable]
    every = max(1, len(cuts) // 25)
    for cut in [*cuts[::every], cuts[-1]]:
        assert not scene.after(cut)


def test_without_it_a_power_failure_takes_what_was_not_stored(scene: Scene) -> None:
    # The other way round: this test can tell.
    scene.run("process")
    before_the_store_came_back = next(cut for cut in reversed(scene.cuts) if not cut.durable)
    told = {one.record.metadata["number"]: one["key"] for one in scene.references}
    cut = Cut(before_the_store_came_back.scratch, before_the_store_came_back.store, told)
    assert any(text.startswith("lost") for text in scene.after(cut))
