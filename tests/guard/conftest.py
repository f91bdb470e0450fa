"""Places to save from: every file system that a lease was promised for, as far as this machine lets us mount it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from ckpt_async.testing.access import ENDPOINT
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from tests.engine.desk import Desk, alive, wait_for

NOBODY = 65534
DISK_MIB = 768

if sys.platform != "linux":
    pytest.skip("leases are Linux's", allow_module_level=True)


def _run(*command: str) -> str:
    """Run a tool of the system; return why it failed, or nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"


@contextmanager
def mounted(folder: Path, *command: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder.mkdir(parents=True)
    if failure := _run("mount", *command, str(folder)):
        pytest.skip(f"mounting is not allowed here: {failure}")
    try:
        yield folder
    finally:
        failure = _run("umount", str(folder))
        assert not failure, failure


def made_image(kind: str, folder: Path) -> Path:
    """A file system in a file, which takes no room until it is written; made by the first call."""
    make = shutil.which(f"mkfs.{kind}")
    if make is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    image = folder / f"{kind}.image"
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(DISK_MIB * 1024 * 1024)
        if failure := _run(make, "-q", str(image)):
            pytest.skip(failure)
    return image


@contextmanager
def _made(kind: str, folder: Path) -> Iterator[Path]:
    """A file system of its own."""
    with mounted(folder / kind, "-o", "loop", str(made_image(kind, folder))) as place:
        yield place


def killed_with_its_sidecar(desk: Desk, *trees: Path) -> list[dict[str, object]]:
    """Have a task save trees that are linked, then kill all of it; returns the references. Hold the store up meanwhile."""
    task = desk.task()
    sidecar = desk.orphan(task.do("sidecar"))
    saved: list[dict[str, object]] = [task.do("save", path=str(tree)) for tree in trees]
    os.kill(sidecar, signal.SIGSTOP)
    task.kill()
    os.kill(sidecar, signal.SIGKILL)
    wait_for(lambda: not alive(sidecar), "the sidecar is dead")
    return saved


@contextmanager
def _shared_memory() -> Iterator[Path]:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("there is no tmpfs at /dev/shm")
    place = Path(tempfile.mkdtemp(prefix="ckpt-async-test-", dir="/dev/shm"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def _overlay(folder: Path) -> Iterator[Path]:
    lower, upper, work = (folder / name for name in ("lower", "upper", "work"))
    for one in (lower, upper, work):
        one.mkdir()
    with mounted(folder / "merged", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}") as place:
        yield place


@contextmanager
def place_on(kind: str, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of this kind."""
    with ExitStack() as stack:
        if kind == "here":
            yield tmp_path
        elif kind == "tmpfs":
            yield stack.enter_context(_shared_memory())
        elif kind == "overlay":
            yield stack.enter_context(_overlay(tmp_path))
        else:
            yield stack.enter_context(_made(kind, tmp_path))


@pytest.fixture(params=["here", "tmpfs", "overlay", "ext4", "xfs", "btrfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on each file system; "here" is the one that the tests run on."""
    with place_on(request.param, tmp_path) as folder:
        yield folder


@pytest.fixture
def open_desk() -> Iterator[Callable[[Path, StoreAddress], Desk]]:
    """Make desks in a folder; all end with the test."""
    desks: list[Desk] = []

    def make(folder: Path, address: StoreAddress) -> Desk:
        desks.append(Desk(folder, address))
        return desks[-1]

    yield make
    for desk in desks:
        desk.end()


@pytest.fixture
def desk_at(place: Path, s3_address: StoreAddress, open_desk: Callable[[Path, StoreAddress], Desk]) -> Iterator[Desk]:
    """A desk on each file system, over S3, whose uploads a test can hold back."""
    desk = open_desk(place, s3_address)
    yield desk
    desk.end()  # before the place is unmounted


@pytest.fixture
def desk(tmp_path: Path, s3_address: StoreAddress, open_desk: Callable[[Path, StoreAddress], Desk]) -> Desk:
    """A desk on the file system of the tests, over S3."""
    return open_desk(tmp_path, s3_address)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder, and this process as a user without privileges that owns it, until the test ends."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp(prefix="ckpt-async-test-"))
    try:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def line(seaweed: SeaweedServer, s3_address: StoreAddress, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLine]:
    """A line in front of the server, through which `s3_address` leads from now on."""
    with SlowLine(seaweed.host, seaweed.port) as line:
        monkeypatch.setenv(ENDPOINT, line.endpoint_url)
        yield line
