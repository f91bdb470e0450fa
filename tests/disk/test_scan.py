"""What a scan finds, and what it refuses."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from ckpt_async.disk.scan import scan
from ckpt_async.words.errors import InvalidArgument, SnapshotFailed


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b" / "empty").mkdir(parents=True)
    (tmp_path / "b" / "weights").write_bytes(b"12345")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(0o640)
    os.utime(tmp_path / "a", ns=(5, 1_234_567_891))
    tree = scan(tmp_path)
    assert tree.root == str(tmp_path)
    assert [(file.path, file.size_bytes) for file in tree.files] == [("a", 1), ("b/weights", 5)]
    assert tree.files[0].absolute == str(tmp_path / "a")
    assert (tree.files[0].mode, tree.files[0].mtime_ns) == (0o640, 1_234_567_891)
    assert tree.directories == ("b", "b/empty")
    assert tree.size_bytes == 6


def test_an_empty_folder(tmp_path: Path) -> None:
    tree = scan(str(tmp_path))
    assert (tree.files, tree.directories, tree.size_bytes) == ((), (), 0)


def test_a_single_file_has_its_base_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt").write_bytes(b"abc")
    monkeypatch.chdir(tmp_path)
    for given in (tmp_path / "model.pt", "model.pt", "./model.pt"):
        tree = scan(given)
        assert [file.path for file in tree.files] == ["model.pt"]
        assert tree.files[0].absolute == str(tmp_path / "model.pt")


def test_a_single_file_behind_a_link_has_the_name_of_the_link(tmp_path: Path) -> None:
    (tmp_path / "step-100.pt").write_bytes(b"abc")
    (tmp_path / "last.pt").symlink_to("step-100.pt")
    assert [(file.path, file.size_bytes) for file in scan(tmp_path / "last.pt").files] == [("last.pt", 3)]


def test_special_bits_of_a_mode_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "tool").touch()
    (tmp_path / "tool").chmod(0o6755)
    assert scan(tmp_path).files[0].mode == 0o755


def test_links_are_followed_also_to_the_same_folder_twice(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"1234")
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "one").symlink_to(outside)
    (saved / "two").symlink_to("../outside")
    (saved / "three").symlink_to("one/file")
    tree = scan(saved)
    assert [file.path for file in tree.files] == ["one/file", "three", "two/file"]
    assert tree.directories == ("one", "two")


def test_names_that_need_care(tmp_path: Path) -> None:
    names = ["with space", "new\nline", "ünïcode", "back\\slash", "-dash", "...", "percent%2F", "*"]
    for name in names:
        (tmp_path / name).touch()
    assert [file.path for file in scan(tmp_path).files] == sorted(names)


def test_a_tree_deeper_than_the_calls_of_python(tmp_path: Path) -> None:
    # Through a descriptor: such a path is longer than some calls take, and pytest's clean-up goes down step by step.
    depth = 300
    folder = tmp_path.joinpath(*["d"] * depth)
    folder.mkdir(parents=True)
    (folder / "file").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        tree = scan(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert len(tree.directories) == depth


@pytest.mark.parametrize("given", ["", "nul\0byte", b"bytes"])
def test_what_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(InvalidArgument):
        scan(given)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"missing\): there is nothing at this path"):
        scan(tmp_path / "missing")


def test_a_path_that_is_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InvalidArgument, match="points at nothing"):
        scan(tmp_path / "link")


def test_a_path_that_is_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgument, match="fifo"):
        scan(tmp_path / "pipe")


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SnapshotFailed, match="'pipe' is a fifo"):
        scan(tmp_path)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("server.sock")
        with pytest.raises(SnapshotFailed, match=r"'server.sock' is a socket"):
            scan(tmp_path)


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(SnapshotFailed, match="'zero' is a device"):
        scan(tmp_path)


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "last").symlink_to("step-99")
    with pytest.raises(SnapshotFailed, match=r"'sub/last' is a link to nothing \('step-99'\)"):
        scan(tmp_path)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SnapshotFailed, match="'a' is a link that leads back to itself; 'b' is"):
        scan(tmp_path)


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_link_to_a_folder_around_it_is_refused(tmp_path: Path, target: str) -> None:
    saved = tmp_path / "saved"
    (saved / "sub").mkdir(parents=True)
    (saved / "sub" / "loop").symlink_to(target)
    with pytest.raises(SnapshotFailed, match=r"'sub/loop.*' leads back, through a link, to a folder that holds it"):
        scan(saved)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9", "wb"):
            pass
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    with pytest.raises(SnapshotFailed, match=r"udce9' has a name that is not UTF-8"):
        scan(tmp_path)


def test_unreadable_files_and_folders_are_refused_together(ordinary_user_folder: Path) -> None:
    (ordinary_user_folder / "secret").touch()
    (ordinary_user_folder / "secret").chmod(0o000)
    (ordinary_user_folder / "vault").mkdir()
    (ordinary_user_folder / "vault").chmod(0o000)
    with pytest.raises(SnapshotFailed, match=r"'secret' can't be read \(Permission denied\); 'vault' can't be read") as caught:
        scan(ordinary_user_folder)
    assert "chmod u+r" in caught.value.hint


def test_all_problems_are_named_up_to_ten(tmp_path: Path) -> None:
    for number in range(13):
        os.mkfifo(tmp_path / f"pipe{number:02d}")
    (tmp_path / "a-link").symlink_to("nowhere")
    with pytest.raises(SnapshotFailed) as caught:
        scan(tmp_path)
    cause = caught.value.cause
    assert cause.startswith("'a-link' is a link to nothing ('nowhere'); 'pipe00' is a fifo")
    assert "'pipe08'" in cause
    assert "'pipe09'" not in cause
    assert cause.endswith("and 4 more")
    assert "Remove the link" in caught.value.hint
    assert "Move it out" in caught.value.hint
