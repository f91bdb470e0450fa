"""Run by test_kills: does a scenario again and again, each time killed before another system call, and recovers each time.

Each life is a forked child of this process that ends without a goodbye. Prints how many kills were survived.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckpt_async.spool.neighbours import left_saves, remove_spool
from ckpt_async.spool.part_log import PartLog
from ckpt_async.spool.spool import Spool
from tests.spool.parts import HEADER, content, save

CALLS = (
    "open",
    "close",
    "write",
    "mkdir",
    "rename",
    "unlink",
    "rmdir",
    "fsync",
    "fchmod",
    "chmod",
    "pwrite",
    "sendfile",
    "copy_file_range",
)
FILES = {"a": b"one", "b/c": b"two" * 1000, "big": b"z" * (1024 * 1024 + 1)}

Step = Callable[[str], None]


def die_before_call(number: int) -> None:
    """From now on count the calls that change something, and end this process in place of the given one."""
    left = [number]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return call(*args, **named)

        return wrapper

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, counted(getattr(os, name)))


def saving(folder: Path, note: Step) -> None:
    spool = Spool.create(str(folder / "t" / "0000"), HEADER)
    for entry in ("0000000000", "0000000001"):
        assert save(spool, folder.parent / "source") == entry
        note("saved " + entry)


def uploading(folder: Path, note: Step) -> None:
    spool = Spool(str(folder / "t" / "0000"))
    for entry in spool.waiting():
        assert spool.claim(entry)
        log = PartLog(spool.entry_folder(entry))
        for number in range(3):
            log.append({"number": number})
            note(f"logged {entry} {number}")
        log.close()
        spool.unclaim(entry)
        assert spool.claim(entry)
        note("committed " + entry)
        spool.finish(entry)
        note("finished " + entry)
    assert remove_spool(spool)
    note("removed")


def dropping(folder: Path, note: Step) -> None:
    spool = Spool(str(folder / "t" / "0000"))
    note("dropping 0000000000")
    assert spool.drop("0000000000")
    note("finished 0000000000")


def check(folder: Path, notes: list[str], prepared: bool) -> None:
    """What a new attempt finds, whatever came before."""
    own = folder / "t" / "0000"
    if not own.exists():
        assert "removed" in notes or not notes or notes[-1].startswith("finished"), notes
        return
    spool = Spool(str(own))
    assert spool.task_lock.try_acquire() and spool.worker_lock.try_acquire()
    spool.clean()
    waiting = spool.waiting()
    saved = {note.split()[1] for note in notes if note.startswith("saved")}
    if prepared:
        saved = {"0000000000", "0000000001"}
    given_up = {note.split()[1] for note in notes if note.split()[0] in ("committed", "dropping")}
    finished = {note.split()[1] for note in notes if note.startswith("finished")}
    # Promise 2: nothing is lost whose save() returned, unless it is in the store.
    assert saved - given_up <= set(waiting), (notes, waiting)
    assert not finished & set(waiting), (notes, waiting)
    found, damaged = left_saves(str(folder / "t" / "0001"))
    assert not damaged and {one.entry.id for one in found} == set(waiting)
    for entry in waiting:
        # What is found is whole, also where save() had not returned yet.
        assert content(spool, entry, folder / f"restored-{entry}") == FILES
        logged = [int(note.split()[2]) for note in notes if note.startswith(f"logged {entry}")]
        log = [note["number"] for note in PartLog(spool.entry_folder(entry)).read()]
        assert log[: len(logged)] == logged and len(log) <= len(logged) + 1, (log, notes)
    if (own / "counter").exists():
        assert spool.next_version() >= len(saved)
    assert not os.listdir(own / "staging") if (own / "staging").exists() else True
    assert not any(
        path.name.startswith(".tmp-") for state in ("staging", "ready", "active", "trash") for path in own.glob(f"{state}/*")
    )
    # The normal code goes on.
    again = Spool.create(str(own), HEADER)
    assert again.header() == HEADER
    save(again, folder.parent / "source")
    for entry in again.waiting():
        assert again.claim(entry)
        again.finish(entry)
    assert remove_spool(again) and not own.exists()


def one_life(scenario: Callable[[Path, Step], None], folder: Path, number: int, prepared: bool) -> bool:
    """Run the scenario to the given call; returns whether it came to its end."""
    folder.mkdir()
    if prepared:
        saving(folder, lambda note: None)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        tell = os.write
        status = 1
        try:
            die_before_call(number)
            scenario(folder, lambda note: tell(writing, note.encode() + b"\n") and None)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as pipe:
        notes = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), (status, number, notes)
    check(folder, notes, prepared)
    return status == 0


def main() -> None:
    scenario = {"saving": saving, "uploading": uploading, "dropping": dropping}[sys.argv[1]]
    root = Path(tempfile.mkdtemp(dir=sys.argv[2]))
    for path, text in FILES.items():
        (root / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "source" / path).write_bytes(text)
    for number in range(1000):
        if one_life(scenario, root / f"life{number}", number, scenario is not saving):
            print(number)
            return
        shutil.rmtree(root / f"life{number}")
    raise AssertionError("the scenario never ends")


if __name__ == "__main__":
    main()
