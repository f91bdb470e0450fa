from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckpt_async.spool.entry import Entry
from ckpt_async.spool.neighbours import left_saves, older_attempts, remove_spool, spool_folder
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.spool.states import ENTRY_FILE
from ckpt_async.words.errors import InvalidArgument, SpoolDamaged
from ckpt_async.words.settings import Settings, StoreAddress
from tests.spool.parts import ADDRESS, HEADER, content, identity, save


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.create(str(tmp_path / "task" / "0000"), HEADER)


def states(spool: Spool) -> dict[str, list[str]]:
    return {state: sorted(os.listdir(os.path.join(spool.folder, state))) for state in ("staging", "ready", "active", "trash")}


def test_the_way_of_a_save(spool: Spool, source: Path, tmp_path: Path) -> None:
    entry = save(spool, source)
    assert states(spool) == {"staging": [], "ready": [entry], "active": [], "trash": []}
    (source / "model.pt").write_bytes(b"changed")
    assert spool.claim(entry) and spool.claim(entry)
    assert states(spool)["active"] == [entry]
    spool.unclaim(entry)
    assert states(spool)["ready"] == [entry] == spool.waiting()
    assert content(spool, entry, tmp_path / "target") == {"model.pt": b"weights"}
    assert not spool.remove()
    assert spool.claim(entry)
    assert not spool.drop(entry), "its upload has begun"
    spool.finish(entry)
    spool.finish(entry)
    assert states(spool) == {"staging": [], "ready": [], "active": [], "trash": []}
    assert not spool.claim(entry) and not spool.drop(entry)
    with pytest.raises(FileNotFoundError):
        spool.read(entry)
    assert spool.remove() and not os.path.exists(spool.folder)


def test_nobody_else_can_read_it(spool: Spool, source: Path) -> None:
    save(spool, source)
    spool.task_lock.try_acquire()
    for folder, _, files in os.walk(spool.folder):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
        for file in files:
            assert stat.S_IMODE(os.stat(os.path.join(folder, file)).st_mode) == 0o600, file
    spool.task_lock.release()


def test_a_discarded_save_leaves_nothing(spool: Spool) -> None:
    folder = spool.stage(spool.next_version())
    Path(folder, "pack").write_bytes(b"half")
    assert not spool.remove(), "a save is being taken"
    spool.discard(0)
    spool.discard(0)
    assert not any(states(spool).values())


@pytest.mark.parametrize("name", [".DS_Store", ".nfs0000000001", "notes.txt", "tmp"])
@pytest.mark.parametrize("state", ["ready", "active"])
def test_files_of_other_programs_are_no_entries(spool: Spool, name: str, state: str) -> None:
    Path(spool.folder, state, name).write_text("x")
    assert spool.waiting() == []
    assert spool.remove()


# Save numbers


def test_threads_never_get_the_same_number(spool: Spool) -> None:
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: spool.next_version(), range(300)))
    assert sorted(taken) == list(range(300))


TAKER = (
    "import sys; from ckpt_async.spool.spool import Spool; s = Spool(sys.argv[1]); print([s.next_version() for _ in range(100)])"
)


def test_processes_never_get_the_same_number(spool: Spool) -> None:
    takers = [subprocess.Popen([sys.executable, "-c", TAKER, spool.folder], stdout=subprocess.PIPE) for _ in range(3)]
    taken = [number for taker in takers for number in json.loads(taker.communicate()[0])]
    assert sorted(taken) == list(range(300))


def test_nodes_that_share_an_identity_take_different_numbers(tmp_path: Path) -> None:
    spools = [Spool.create(str(tmp_path / str(node)), HEADER) for node in range(3)]
    taken = [spool.next_version(node, 3) for _ in range(4) for node, spool in enumerate(spools)]
    assert sorted(taken) == list(range(12))


def test_a_counter_that_was_made_and_not_written_starts_at_the_start(spool: Spool) -> None:
    Path(spool.folder, "counter").touch()
    assert [spool.next_version(5, 2), spool.next_version(5, 2)] == [5, 7]
    Path(spool.folder, "counter").write_bytes(b"\0" * 20)
    with pytest.raises(SpoolDamaged, match="counter"):
        spool.next_version()


# Headers and descriptions


def test_a_header_comes_back_and_holds_for_whoever_opens_the_spool_again(tmp_path: Path) -> None:
    header = SpoolHeader(StoreAddress("s3://b", "pkg.mod:fn"), Settings(True, "thread", 3, 9, "raise", 1.5, "/x"), 2, 4)
    spool = Spool.create(str(tmp_path / "s"), header)
    assert spool.header() == header
    assert Spool.create(spool.folder, HEADER).header() == header


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"address": {}}', b"\xff", b'{"address": 3, "settings": 4}'])
def test_a_damaged_header_is_named(spool: Spool, text: bytes) -> None:
    path = Path(spool.folder, "spool.json")
    path.write_bytes(text)
    with pytest.raises(SpoolDamaged, match=r"spool\.json"):
        spool.header()
    path.unlink()
    with pytest.raises(SpoolDamaged, match="missing"):
        spool.header()


def test_a_description_comes_back(spool: Spool, source: Path) -> None:
    read = spool.read(save(spool, source))
    assert Entry.from_json(read.id, read.to_json(), source="x") == read
    assert read.record.pathspec == "Flow/1/train/2" and read.snapshot.size_bytes == 7 and read.record.latest


def damage(text: bytes, *path: str, value: object) -> bytes:
    data = json.loads(text)
    inner = data
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return json.dumps(data).encode()


def test_a_damaged_description_is_named(spool: Spool, source: Path) -> None:
    entry = save(spool, source)
    path = Path(spool.entry_folder(entry), ENTRY_FILE)
    text = path.read_bytes()
    bad = [b"", text[:-1], b"[]", b"null", b"\xff\xff", b"{}"]
    bad.append(damage(text, "format_version", value=99))
    bad.append(damage(text, "identity", value={"flow": "x"}))
    bad.append(damage(text, "record", value={}))
    bad.append(damage(text, "record", "key", value="../../x"))
    bad.append(damage(text, "snapshot", "files", value=[["../x", 1, 0o644, 0, "pack", 0]]))
    bad.append(damage(text, "snapshot", "files", value=[["x", 1, 0o644, 0, "../../secret", 0]]))
    for one in bad:
        path.write_bytes(one)
        with pytest.raises(SpoolDamaged, match=ENTRY_FILE):
            spool.read(entry)
    path.unlink()
    with pytest.raises(SpoolDamaged, match="missing"):
        spool.read(entry)


# Attempts


def test_what_earlier_attempts_left_comes_newest_first(tmp_path: Path, source: Path) -> None:
    folders = [spool_folder(str(tmp_path / "scratch"), ADDRESS, identity(attempt)) for attempt in range(4)]
    for attempt, saves in ((0, 2), (1, 1), (3, 1)):
        spool = Spool.create(folders[attempt], HEADER)
        for _ in range(saves):
            save(spool, source, attempt=attempt)
    assert older_attempts(folders[3]) == [folders[0], folders[1]]
    (tmp_path / "scratch" / Path(folders[0]).parent.name / "lost+found").mkdir()
    os.truncate(os.path.join(Spool(folders[0]).entry_folder("0000000000"), ENTRY_FILE), 5)
    found, damaged = left_saves(folders[3])
    assert [(one.entry.record.order, one.folder) for one in found] == [((1, 0), folders[1]), ((0, 1), folders[0])]
    assert len(damaged) == 1 and "0000000000" in str(damaged[0])
    assert left_saves(folders[0]) == ([], [])
    assert older_attempts(str(tmp_path / "nowhere" / "0003")) == []


def test_tasks_that_differ_never_share_a_folder(tmp_path: Path) -> None:
    import dataclasses

    own = identity()
    others = [
        spool_folder("/s", ADDRESS, own),
        spool_folder("/s", StoreAddress("s3://other"), own),
        spool_folder("/s", ADDRESS, own, node_index=1),
        *(spool_folder("/s", ADDRESS, dataclasses.replace(own, **{part: "x/../.."})) for part in ("flow", "run", "step", "task")),
        spool_folder("/s", ADDRESS, dataclasses.replace(own, flow="f" * 300)),
        spool_folder("/s", ADDRESS, dataclasses.replace(own, flow="f" * 301)),
    ]
    assert len(set(others)) == len(others)
    for folder in others:
        assert os.path.normpath(folder) == folder and os.path.dirname(os.path.dirname(folder)) == "/s"
        assert max(map(len, folder.split("/"))) <= 255


def test_the_last_spool_takes_the_tasks_folder_with_it(tmp_path: Path, source: Path) -> None:
    first, second = (Spool.create(str(tmp_path / "task" / name), HEADER) for name in ("0000", "0001"))
    entry = save(first, source)
    assert not remove_spool(first)
    assert first.drop(entry)
    assert remove_spool(first) and os.listdir(tmp_path / "task") == ["0001"]
    assert remove_spool(second) and not (tmp_path / "task").exists()


def test_a_retry_gets_its_spool_though_the_old_worker_removes_the_tasks_folder_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder = os.mkdir
    removals = []

    def removed_in_between(path: str, mode: int = 0o777) -> None:
        if path.endswith("0001") and not removals:
            removals.append(path)
            os.rmdir(os.path.dirname(path))
        make_folder(path, mode)

    monkeypatch.setattr(os, "mkdir", removed_in_between)
    spool = Spool.create(str(tmp_path / "task" / "0001"), HEADER)
    assert removals and spool.header() == HEADER


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="private folder"):
        Spool.create(str(tmp_path / "file" / "0000"), HEADER)
