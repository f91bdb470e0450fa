from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_async.spool.ownership import FileLock
from ckpt_async.words.errors import SpoolBusy

OWNER = """
import os, sys
from ckpt_async.spool.ownership import FileLock
lock = FileLock(sys.argv[1])
assert lock.try_acquire() and lock.try_acquire() and lock.held
if sys.argv[2] == "forks":
    # A data-loader worker that outlives its parent; it ends when its standard input does.
    if os.fork() == 0:
        os.read(0, 1)
        os._exit(0)
    print("held", flush=True)
    os._exit(9)
print("held", flush=True)
sys.stdin.read()
"""


def start(path: Path, mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_keeps_others_out_until_its_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start(path, "stays") as owner:
        lock = FileLock(str(path))
        assert not lock.try_acquire() and not lock.held
        with pytest.raises(SpoolBusy, match="own the spool"):
            lock.acquire(attempted="own the spool")
        owner.kill()
        owner.wait()
        assert lock.try_acquire()
        lock.release()
        lock.release()
        assert not lock.held
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_forked_child_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start(path, "forks") as owner:
        owner.wait()
        lock = FileLock(str(path))
        assert lock.try_acquire()
        lock.release()


def test_a_lock_in_a_folder_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(str(tmp_path / "gone" / "lock")).try_acquire()
    assert os.listdir(tmp_path) == []
