"""Folders that a disk test may need: one of another user, a tiny file system, one that can share blocks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


def _run(*command: str) -> str:
    """Run a tool of the system; return why it failed, or nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"


@contextmanager
def _mounted(folder: Path, *command: str) -> Iterator[Path]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount")
    folder.mkdir()
    if failure := _run("mount", *command, str(folder)):
        pytest.skip(f"mounting is not allowed here: {failure}")
    try:
        yield folder
    finally:
        failure = _run("umount", str(folder))
        assert not failure, failure


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with _mounted(tmp_path / "tiny", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as folder:
        yield folder


@pytest.fixture(params=["xfs", "btrfs"])
def sharing_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that does reflinks, in a file of 512 MiB that takes no room until it is written."""
    make = shutil.which(f"mkfs.{request.param}")
    if make is None:
        pytest.skip(f"mkfs.{request.param} is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(512 * 1024 * 1024)
    if failure := _run(make, "-q", str(image)):
        pytest.skip(failure)
    with _mounted(tmp_path / "sharing", "-o", "loop", str(image)) as folder:
        yield folder


@pytest.fixture
def ordinary_user_folder() -> Iterator[Path]:
    """An empty folder, and this process as a user without privileges that owns it, until the test ends."""
    folder = Path(tempfile.mkdtemp(prefix="ckpt-async-test-"))
    try:
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
        try:
            if not os.access(folder, os.W_OK, effective_ids=True):
                pytest.skip(f"an ordinary user can't reach {folder.parent}")
            yield folder
        finally:
            os.seteuid(0)
    finally:
        _run("chmod", "-R", "u+rwX", str(folder))
        shutil.rmtree(folder)
