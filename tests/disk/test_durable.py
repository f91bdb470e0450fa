"""Writing, renaming, private folders, removing."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.disk import durable
from ckpt_async.words.errors import InvalidArgument


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o000, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_written_whole(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "entry.json"
    path.write_bytes(b"old and longer than the new one")
    durable.write_file(str(path), b"new", sync=sync)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["entry.json"]


def test_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    durable.write_file(str(tmp_path / "a"), b"")
    durable.write_file(str(tmp_path / "b"), b"", mode=0o644)
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "b")) == (0o600, 0o644)


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        durable.write_file(str(tmp_path / "taken"), b"content")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_full_disk_leaves_the_old_file(tiny_disk: Path) -> None:
    path = tiny_disk / "record"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        durable.write_file(str(path), bytes(8 * 1024 * 1024))
    assert path.read_bytes() == b"old"
    assert os.listdir(tiny_disk) == ["record"]


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    contents = [bytes([number]) * 10_000 for number in range(50)]
    durable.write_file(str(path), contents[0], sync=False)
    ended = threading.Event()

    def write() -> None:
        for content in contents:
            durable.write_file(str(path), content, sync=False)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [path.read_bytes()]
    while not ended.is_set():
        seen.append(path.read_bytes())
    writer.join()
    assert set(seen) <= set(contents)


@pytest.mark.parametrize("sync", [True, False])
def test_rename_moves_a_folder_into_another(tmp_path: Path, sync: bool) -> None:
    (tmp_path / "staging" / "x").mkdir(parents=True)
    (tmp_path / "ready").mkdir()
    durable.rename(str(tmp_path / "staging" / "x"), str(tmp_path / "ready" / "x"), sync=sync)
    assert os.listdir(tmp_path / "ready") == ["x"]
    assert os.listdir(tmp_path / "staging") == []


def test_relative_paths_are_those_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    durable.write_file("a", b"1")
    durable.rename("a", "b")
    durable.sync_file("b")
    assert os.listdir(tmp_path) == ["b"]


def test_a_private_folder_is_made_with_its_parents(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "a" / "b" / "c"
    durable.make_private_folder(str(folder))
    assert [mode_of(path) for path in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3


def test_a_folder_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(0o755)
    before = mode_of(tmp_path)
    durable.make_private_folder(str(folder))
    assert mode_of(folder) == 0o700
    assert mode_of(tmp_path) == before


def test_a_private_folder_made_by_many_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c" / "d"
    failures: list[BaseException] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait(10)
        try:
            durable.make_private_folder(str(folder))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert mode_of(folder) == 0o700


def test_a_link_is_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(InvalidArgument, match="symbolic link"):
        durable.make_private_folder(str(tmp_path / "link"))


def test_a_file_is_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidArgument, match="not a folder"):
            durable.make_private_folder(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    os.chown(folder, 65534, -1)
    with pytest.raises(InvalidArgument, match="belongs to user 65534"):
        durable.make_private_folder(str(folder))


def test_a_place_without_rights_is_refused(ordinary_user_folder: Path) -> None:
    ordinary_user_folder.chmod(0o500)
    with pytest.raises(InvalidArgument, match="Permission denied"):
        durable.make_private_folder(str(ordinary_user_folder / "a" / "b"))


def test_a_tree_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").touch()
    (tree / "link").symlink_to(kept)
    durable.remove_tree(str(tree))
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(kept) == ["file"]


def test_removing_what_is_missing_is_fine(tmp_path: Path) -> None:
    durable.remove_tree(str(tmp_path / "missing"))


def test_a_file_and_a_link_are_removed_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    durable.remove_tree(str(tmp_path / "file"))
    durable.remove_tree(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["folder"]


def test_protected_folders_are_removed(ordinary_user_folder: Path) -> None:
    tree = ordinary_user_folder / "tree"
    for name in ("readonly", "closed"):
        (tree / name / "inner").mkdir(parents=True)
        (tree / name / "inner" / "file").touch()
    (tree / "readonly" / "inner").chmod(0o500)
    (tree / "readonly").chmod(0o500)
    (tree / "closed").chmod(0o000)
    durable.remove_tree(str(tree))
    assert not tree.exists()


def test_what_can_not_be_removed_is_an_error(ordinary_user_folder: Path) -> None:
    parent = ordinary_user_folder / "parent"
    (parent / "tree").mkdir(parents=True)
    parent.chmod(0o500)
    with pytest.raises(PermissionError):
        durable.remove_tree(str(parent / "tree"))


def test_many_may_remove_the_same_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(200):
        (tree / str(number)).mkdir(parents=True)
        (tree / str(number) / "file").touch()
    failures: list[BaseException] = []

    def remove() -> None:
        try:
            durable.remove_tree(str(tree))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not tree.exists()
