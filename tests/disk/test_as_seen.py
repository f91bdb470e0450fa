"""Taking what a scan has seen, as it was seen: for whoever has decided on what he saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_async.disk import clone
from ckpt_async.disk.scan import scan
from ckpt_async.disk.snapshot import PACK, changed_files, take_snapshot


def test_what_is_left_out_is_not_there(tmp_path: Path) -> None:
    for path in ("model", "tmp-a/model", "b/model.tmp"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    # Nothing below it is looked at, not even what could not be saved.
    (tmp_path / "tmp-a" / "loop").symlink_to("loop")
    tree = scan(tmp_path, leave_out=lambda path: path.startswith("tmp-") or path.endswith(".tmp"))
    assert [file.path for file in tree.files] == ["model"] and tree.directories == ("b",)


def test_a_file_that_has_changed_since_the_scan_is_told(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    for name in ("a", "b", "log"):
        (source / name).write_bytes(b"x")
    tree = scan(source)
    tree = dataclasses.replace(tree, files=tuple(dataclasses.replace(file, may_grow=file.path == "log") for file in tree.files))
    for name in ("b", "log"):
        (source / name).write_bytes(b"longer")
    assert changed_files(tree, take_snapshot(tree, str(folder))) == ["b"]


@pytest.fixture
def appending(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Have something appended to a file whenever a piece of it has been copied."""

    def begin(path: Path) -> None:
        send_bytes = clone.send_bytes

        def send(*arguments: int) -> int:
            copied = send_bytes(*arguments)
            with path.open("ab") as file:
                file.write(b"line\n")
            return copied

        monkeypatch.setattr(clone, "send_bytes", send)

    return begin


@pytest.mark.parametrize("size_bytes", [10, 2 * 1024 * 1024])
def test_of_a_file_that_may_grow_what_it_held_is_taken(tmp_path: Path, appending: Callable[[Path], None], size_bytes: int) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    log = source / "log"
    log.write_bytes(b"x" * size_bytes)
    tree = scan(source)
    appending(log)
    (taken,) = take_snapshot(
        dataclasses.replace(tree, files=(dataclasses.replace(tree.files[0], may_grow=True),)), str(folder)
    ).files
    assert taken.size_bytes == size_bytes
    assert (folder / taken.stored_in).read_bytes() == b"x" * size_bytes
    assert (taken.stored_in == PACK) == (size_bytes == 10)
