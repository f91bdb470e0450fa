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
        assert not lock.try_acquire() and not lock.held and lock.is_held()
        with pytest.raises(SpoolBusy, match="own the spool"):
            lock.acquire(attempted="own the spool")
        owner.kill()
        owner.wait()
        assert not lock.is_held()
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


def test_looking_at_a_lock_of_this_process_neither_shares_nor_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not FileLock(str(path)).is_held() and not path.exists()
    owner, other = FileLock(str(path)), FileLock(str(path))
    assert owner.try_acquire()
    assert other.is_held() and not other.try_acquire()
    asked = [
        sys.executable,
        "-c",
        "import sys; from ckpt_async.spool.ownership import FileLock; print(FileLock(sys.argv[1]).is_held())",
    ]
    assert subprocess.run([*asked, str(path)], capture_output=True, text=True, check=True).stdout == "True\n"
    owner.release()
    assert not other.is_held() and other.try_acquire()
    other.release()


def test_a_lock_in_a_folder_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(str(tmp_path / "gone" / "lock")).try_acquire()
    assert os.listdir(tmp_path) == []
