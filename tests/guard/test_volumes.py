"""A spool on a disk that outlives its machine: another one goes on from it, linked files included."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from ckpt_async.testing.seaweed import SeaweedServer
from tests.engine.desk import DEADLINE_S, Desk, paused, read_tree
from tests.guard.conftest import killed_with_its_sidecar, made_image, mounted
from tests.guard.writers import plain

MIB = 1024 * 1024


class Machines:
    """A disk that is taken from one machine to another in some way."""

    def __init__(self, folder: Path, address: StoreAddress, way: str) -> None:
        self.folder = folder
        self.address = address
        self.way = way
        self._mounts = ExitStack()
        self._desks: list[Desk] = []

    def first(self) -> Desk:
        place = self.folder / "first"
        if self.way == "remounted":
            self._mount(place)
        return self._desk(place)

    def second(self) -> Desk:
        """The other machine: nothing runs there that ran on the first, and the disk stands elsewhere."""
        first, second = self.folder / "first", self.folder / "second"
        if self.way == "remounted":
            self._mounts.close()
            self._mount(second)
        else:
            subprocess.run(["cp", "-a", str(first), str(second)], check=True)
            shutil.rmtree(first)
        return self._desk(second)

    def _mount(self, place: Path) -> None:
        self._mounts.enter_context(mounted(place, "-o", "loop", str(made_image("ext4", self.folder))))

    def _desk(self, place: Path) -> Desk:
        place.mkdir(exist_ok=True)
        self._desks.append(Desk(place, self.address))
        return self._desks[-1]

    def end(self) -> None:
        for desk in self._desks:
            desk.end()
        self._mounts.close()


@pytest.fixture(params=["remounted", "copied"])
def machines(request: pytest.FixtureRequest, tmp_path: Path, s3_address: StoreAddress) -> Iterator[Machines]:
    machines = Machines(tmp_path, s3_address, request.param)
    yield machines
    machines.end()


def test_another_machine_goes_on_from_the_disk_of_a_lost_one(machines: Machines, seaweed: SeaweedServer) -> None:
    desk = machines.first()
    kept, lost = desk.tree({"model": os.urandom(MIB), "step": b"1"}, "kept"), desk.tree({"model": os.urandom(MIB)}, "lost")
    before = read_tree(kept)
    with paused(seaweed):
        saved, _ = killed_with_its_sidecar(desk, kept, lost)
    plain(lost / "model")  # while nobody guards it, and of the same size

    desk = machines.second()
    later = desk.open(1)
    # The names of the saved files, too, have come along with the disk.
    plain(desk.folder / "kept" / "model")
    target = desk.target()
    record = later.resume("fresh", str(target))
    assert record is not None and record.key == saved["key"] and read_tree(target) == before
    later.close(timeout_s=DEADLINE_S)
    assert any("A save is lost" in line and "was written to" in line for line in desk.said)
    assert desk.content(saved) == before
    assert [record.version_id for record in desk.records()] == [0]
    assert desk.is_clean()
