"""The commands for what lies on this machine: spool and drain, with tasks that live and tasks that were killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async import StoreAddress
from ckpt_async.spool.ownership import FileLock
from tests.cli.conftest import Run
from tests.engine.desk import Desk, TaskProcess

TASK = "Flow/1/train/7"


@pytest.fixture
def desk(run: Run, tmp_path: Path) -> Iterator[Desk]:
    """A desk whose spools stand where the commands look for them."""
    desk = Desk(tmp_path, StoreAddress(str(tmp_path / "store")), worker="thread")
    desk.scratch = tmp_path / "tmp" / f"ckpt-async-{os.getuid()}"
    yield desk
    desk.end()


def dead_task(desk: Desk, saves: int = 2, attempt: int = 0) -> TaskProcess:
    """A task that has saved, and was killed before anything was stored."""
    # Where the store is away, nothing is.
    (desk.folder / "store").rename(desk.folder / "away")
    task = desk.task(attempt)
    for number in range(saves):
        task.do("save", path=str(desk.tree({"model.bin": b"%d" % number * 5000})), name=f"n{number}")
    task.kill()
    (desk.folder / "away").rename(desk.folder / "store")
    return task


def test_nothing(run: Run) -> None:
    answer = run("spool")
    assert (answer.code, answer.out.startswith("No spools in ")) == (0, True)
    answer = run("drain")
    assert (answer.code, answer.out) == (0, "No dead task has left anything here.\n")
    assert run("drain", "--json").out == ""


def test_what_a_dead_task_has_left(run: Run, desk: Desk) -> None:
    dead_task(desk)
    answer = run("spool", "--json")
    assert answer.code == 0
    (spool,) = answer.json["spools"]
    assert (spool["task"], spool["attempt"], spool["alive"], spool["uploading"]) == (TASK, 0, False, False)
    assert (spool["store"], spool["size_bytes"]) == (str(desk.folder / "store"), 10_000)
    assert [save["reference"] for save in spool["saves"]] == [f"{TASK}:0:n0:0", f"{TASK}:0:n1:1"]
    assert all(save["age_s"] >= 0 and save["lost"] is None for save in spool["saves"])
    text = run("spool").out
    assert "2 saves with 10 kB in " in text
    assert "2 saves of dead tasks: ckpt-async drain uploads them." in text
    # What waits here is no business of the doctor.
    assert run("doctor", "--older-than", "0s", "--json").json["findings"] == []

    answer = run("drain", "--json")
    assert answer.code == 0
    assert [(line["status"], line["stored"], line["left"]) for line in answer.lines] == [("drained", 2, 0)]
    assert [one["reference"] for one in run("list", "--json").json["checkpoints"]] == [f"{TASK}:0:n1:1", f"{TASK}:0:n0:0"]
    assert run("verify").code == 0
    assert run("spool", "--json").json["spools"] == []


def test_a_living_task_is_left_alone(run: Run, desk: Desk) -> None:
    (desk.folder / "store").rename(desk.folder / "away")
    task = desk.task()
    task.do("save", path=str(desk.tree()))
    (spool,) = run("spool", "--json").json["spools"]
    assert (spool["alive"], len(spool["saves"])) == (True, 1)
    assert "task alive" in run("spool").out
    answer = run("drain")
    assert (answer.code, answer.out) == (0, "No dead task has left anything here.\n")
    assert len(run("spool", "--json").json["spools"][0]["saves"]) == 1
    task.kill()
    (desk.folder / "away").rename(desk.folder / "store")
    assert "1 save with 7 bytes stored" in run("drain").out


def test_what_another_uploader_is_at_is_left_to_it(run: Run, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_task(desk)
    folder = run("spool", "--json").json["spools"][0]["folder"]
    lock = FileLock(os.path.join(folder, "worker.lock"))
    assert lock.try_acquire()
    try:
        assert run("spool", "--json").json["spools"][0]["uploading"] is True
        answer = run("drain", "--json")
        assert (answer.code, [line["status"] for line in answer.lines]) == (0, ["busy"])
    finally:
        lock.release()
    assert "2 saves with 10 kB stored" in run("drain").out


def test_what_can_not_be_stored_stays(run: Run, desk: Desk) -> None:
    dead_task(desk)
    (desk.folder / "store").rename(desk.folder / "away")
    answer = run("drain")
    assert answer.code == 3
    assert "2 saves not: " in answer.out
    assert "there is no folder" in answer.out
    assert len(run("spool", "--json").json["spools"][0]["saves"]) == 2
    (desk.folder / "away").rename(desk.folder / "store")
    assert run("drain").code == 0


def test_damage_is_told(run: Run, desk: Desk) -> None:
    dead_task(desk)
    folder = run("spool", "--json").json["spools"][0]["folder"]
    (Path(folder) / "ready" / "0000000000" / "entry.json").write_text("{")
    answer = run("spool", "--json")
    assert answer.code == 1
    assert len(answer.json["spools"][0]["problems"]) == 1
    assert "Can't be read: could not read a saved checkpoint" in run("spool").out
    answer = run("drain", "--json")
    # The other one is stored.
    assert (answer.code, answer.lines[0]["stored"], answer.lines[0]["left"]) == (5, 1, 1)


def test_another_folder(run: Run, desk: Desk, tmp_path: Path) -> None:
    dead_task(desk)
    os.rename(tmp_path / "tmp", tmp_path / "elsewhere")
    (tmp_path / "tmp").mkdir()
    assert run("spool", "--json").json["spools"] == []
    for named in ("elsewhere", f"elsewhere/ckpt-async-{os.getuid()}"):
        assert len(run("spool", "--spool-dir", named, "--json").json["spools"]) == 1
    assert "drained" in run("drain", "--spool-dir", "elsewhere", "--json").out
