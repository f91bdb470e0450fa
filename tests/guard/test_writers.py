"""Who has a file open for writing, as a guard can tell."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from tests.engine.conftest import local_address as local_address, make_desk as make_desk
from tests.engine.desk import Desk, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")


def test_a_guard_tells_who_is_open_for_writing(make_desk: Callable[..., Desk], local_address: StoreAddress, tmp_path: Path) -> None:
    checkpointer = make_desk(local_address, "process").open()
    paths = {name: tmp_path / name for name in ("at rest", "open", "mapped", "being read", "gone", "a link")}
    for name in ("at rest", "open", "mapped", "being read"):
        paths[name].write_bytes(b"x" * 4096)
    paths["a link"].symlink_to("open")
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; file = open(sys.argv[1], 'r+b'); print('open', flush=True); input()", paths["open"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    with paths["mapped"].open("r+b") as file, paths["being read"].open("rb"):
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0] = 1
            asked = [str(path) for path in paths.values()]
            assert checkpointer.being_written(asked) == [str(paths["open"]), str(paths["mapped"])]
    child.communicate("\n")
    assert checkpointer.being_written([str(paths["open"])]) == []
    # Asking has left nothing that would hold a writer up.
    paths["at rest"].write_bytes(b"y")


def test_nobody_can_tell_without_a_guard(make_desk: Callable[..., Desk], local_address: StoreAddress, tmp_path: Path) -> None:
    assert make_desk(local_address, "thread").open().being_written([str(tmp_path)]) is None


def test_nobody_can_tell_while_a_guard_is_replaced(
    make_desk: Callable[..., Desk], local_address: StoreAddress, tmp_path: Path
) -> None:
    desk = make_desk(local_address, "process")
    checkpointer = desk.open()
    (tmp_path / "file").write_bytes(b"x")
    assert checkpointer.being_written([str(tmp_path / "file")]) == []
    checkpointer._worker._worker.stop()  # type: ignore[union-attr]
    wait_for(lambda: checkpointer.being_written([str(tmp_path / "file")]) is None, "its guard is gone")
