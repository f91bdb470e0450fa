"""Snapshots: taken, described, restored."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from ckpt_async.disk import clone
from ckpt_async.disk.clone import CloneMethod
from ckpt_async.disk.restore import restore_snapshot
from ckpt_async.disk.scan import scan
from ckpt_async.disk.snapshot import PACK_LIMIT_BYTES, Snapshot, take_snapshot
from ckpt_async.words.errors import (
    CheckpointError,
    SnapshotFailed,
    SpoolDamaged,
)

# A file is its bytes and mode, a folder a dict. Names are anything that a file system takes in 40 characters or so.
_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 120
)
_files = st.tuples(
    st.one_of(
        st.binary(max_size=200),
        st.integers(PACK_LIMIT_BYTES - 1, PACK_LIMIT_BYTES + 1).map(lambda size: b"\x5a" * size),
    ),
    st.sampled_from([0o644, 0o600, 0o755, 0o444, 0o777]),
)
_trees = st.recursive(
    st.dictionaries(_names, _files, max_size=4),
    lambda inner: st.dictionaries(_names, st.one_of(_files, inner), max_size=4),
    max_leaves=12,
)


def _write(tree: dict[str, Any], folder: Path) -> None:
    for name, item in tree.items():
        if isinstance(item, dict):
            (folder / name).mkdir()
            _write(item, folder / name)
        else:
            (folder / name).write_bytes(item[0])
            (folder / name).chmod(item[1])


def _read(folder: Path) -> dict[str, Any]:
    """What lies in a folder: content, mode and time of files; folders by name."""
    return {
        entry.name: _read(entry) if entry.is_dir() else (entry.read_bytes(), entry.stat().st_mode, entry.stat().st_mtime_ns)
        for entry in folder.iterdir()
    }


def _lies_on(root: Path) -> tuple[Path, Path, Path]:
    folders = (root / "saved", root / "snapshot", root / "restored")
    for folder in folders:
        folder.mkdir()
    return folders


@settings(max_examples=60, deadline=None)
@given(_trees)
def test_what_is_restored_is_what_was_saved(tree: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as root:
        saved, folder, restored = _lies_on(Path(root))
        try:
            _write(tree, saved)
        except OSError:
            return  # two names that this file system holds for one (macOS: case, normal forms)
        before = _read(saved)
        taken = take_snapshot(scan(saved), str(folder))
        assert _read(saved) == before
        # Nothing done to the originals afterwards reaches the snapshot.
        for file in scan(saved).files:
            os.chmod(file.absolute, 0o600)
            with open(file.absolute, "r+b") as original:
                original.write(b"overwritten")
            os.unlink(file.absolute)
        again = Snapshot.from_dict(json.loads(json.dumps(taken.to_dict())), "entry.json")
        assert again == taken
        restore_snapshot(again, str(folder), str(restored))
        assert _read(restored) == before
        assert sum(taken.methods.values()) == len(taken.files)


def test_small_files_are_packed_in_order(tmp_path: Path) -> None:
    saved, folder, _ = _lies_on(tmp_path)
    (saved / "b").write_bytes(b"22")
    (saved / "a").write_bytes(b"1")
    (saved / "c").write_bytes(b"")
    (saved / "d").write_bytes(bytes(PACK_LIMIT_BYTES))
    (saved / "e").write_bytes(bytes(PACK_LIMIT_BYTES + 1))
    taken = take_snapshot(scan(saved), str(folder))
    assert [(file.path, file.stored_in, file.offset, file.size_bytes) for file in taken.files] == [
        ("a", "pack", 0, 1),
        ("b", "pack", 1, 2),
        ("c", "pack", 3, 0),
        ("d", "f000001", 0, PACK_LIMIT_BYTES),
        ("e", "f000002", 0, PACK_LIMIT_BYTES + 1),
    ]
    assert taken.methods == {"packed": 3, "copy": 2}
    assert taken.size_bytes == 4 + 2 * PACK_LIMIT_BYTES
    assert (folder / "pack").read_bytes() == b"122"
    assert sorted(os.listdir(folder)) == ["f000001", "f000002", "pack"]


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_files_of_a_snapshot_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    saved, folder, _ = _lies_on(tmp_path)
    (saved / "a").write_bytes(b"1")
    (saved / "b").write_bytes(bytes(PACK_LIMIT_BYTES))
    before = os.umask(umask)
    try:
        take_snapshot(scan(saved), str(folder))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_an_empty_folder_makes_an_empty_snapshot(tmp_path: Path) -> None:
    saved, folder, restored = _lies_on(tmp_path)
    taken = take_snapshot(scan(saved), str(folder))
    assert taken == Snapshot((), (), {})
    restore_snapshot(taken, str(folder), str(restored))
    assert os.listdir(folder) == os.listdir(restored) == []


def test_a_file_that_changed_since_the_scan_is_saved_as_it_is(tmp_path: Path) -> None:
    saved, folder, restored = _lies_on(tmp_path)
    for name in ("a", "b", "c"):
        (saved / name).write_bytes(name.encode())
    (saved / "big").write_bytes(bytes(PACK_LIMIT_BYTES))
    tree = scan(saved)
    (saved / "a").write_bytes(b"longer than before")
    (saved / "b").write_bytes(b"")
    (saved / "big").write_bytes(b"small now")
    taken = take_snapshot(tree, str(folder))
    assert [file.size_bytes for file in taken.files] == [18, 0, 9, 1]
    restore_snapshot(taken, str(folder), str(restored))
    assert _read(restored) == _read(saved)


def test_a_packed_file_that_changes_while_it_is_copied_is_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, folder, restored = _lies_on(tmp_path)
    (saved / "a").write_bytes(b"a")
    (saved / "b").write_bytes(b"long at first, short later")
    (saved / "c").write_bytes(b"c")
    send = clone.send_bytes

    def send_then_change(source: int, source_offset: int, target: int, target_offset: int, size_bytes: int) -> int:
        copied = send(source, source_offset, target, target_offset, size_bytes)
        if copied == 26:
            (saved / "b").write_bytes(b"short")
        return copied

    monkeypatch.setattr("ckpt_async.disk.clone.send_bytes", send_then_change)
    taken = take_snapshot(scan(saved), str(folder))
    assert (folder / "pack").read_bytes() == b"ashortc"
    restore_snapshot(taken, str(folder), str(restored))
    assert _read(restored) == _read(saved)


def test_a_file_that_was_removed_since_the_scan(tmp_path: Path) -> None:
    saved, folder, _ = _lies_on(tmp_path)
    (saved / "a").write_bytes(b"a")
    tree = scan(saved)
    (saved / "a").unlink()
    with pytest.raises(SnapshotFailed, match=r"saved/a.*removed while it was being saved"):
        take_snapshot(tree, str(folder))


def test_an_unreadable_file_found_by_the_copy(ordinary_user_folder: Path) -> None:
    saved, folder, _ = _lies_on(ordinary_user_folder)
    (saved / "secret").write_bytes(b"a")
    tree = scan(saved)
    (saved / "secret").chmod(0o000)
    with pytest.raises(SnapshotFailed, match=r"'secret' can't be read \(Permission denied\)"):
        take_snapshot(tree, str(folder))


@pytest.mark.parametrize("sizes", [[1_000_000] * 6, [5_000_000], [3_000_000, 3_000_000]])
def test_a_full_disk(tmp_path: Path, tiny_disk: Path, sizes: list[int]) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for number, size_bytes in enumerate(sizes):
        (saved / str(number)).write_bytes(bytes(size_bytes))
    with pytest.raises(SnapshotFailed, match=r"the disk is full: [\d,]+ bytes were still needed, [\d,]+ bytes are free"):
        take_snapshot(scan(saved), str(tiny_disk))


def test_a_full_disk_while_restoring(tmp_path: Path, tiny_disk: Path) -> None:
    saved, folder, _ = _lies_on(tmp_path)
    (saved / "big").write_bytes(bytes(6_000_000))
    taken = take_snapshot(scan(saved), str(folder))
    with pytest.raises(CheckpointError, match="the disk is full: 6,000,000 bytes"):
        restore_snapshot(taken, str(folder), str(tiny_disk))


def _one_file_each(tmp_path: Path) -> tuple[Snapshot, Path, Path]:
    saved, folder, restored = _lies_on(tmp_path)
    (saved / "sub").mkdir()
    (saved / "sub" / "small").write_bytes(b"small")
    (saved / "big").write_bytes(bytes(PACK_LIMIT_BYTES))
    return take_snapshot(scan(saved), str(folder)), folder, restored


@pytest.mark.parametrize("name", ["pack", "f000001"])
def test_an_entry_that_was_removed_meanwhile(tmp_path: Path, name: str) -> None:
    taken, folder, restored = _one_file_each(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        restore_snapshot(taken, str(folder), str(restored))
    assert not isinstance(caught.value, CheckpointError)


@pytest.mark.parametrize("name", ["pack", "f000001"])
def test_a_snapshot_that_lost_its_end_is_damaged(tmp_path: Path, name: str) -> None:
    taken, folder, restored = _one_file_each(tmp_path)
    os.truncate(folder / name, (folder / name).stat().st_size - 1)
    with pytest.raises(SpoolDamaged, match="should end at byte"):
        restore_snapshot(taken, str(folder), str(restored))


def test_a_link_in_the_place_of_a_holder_is_not_followed(tmp_path: Path) -> None:
    taken, folder, restored = _one_file_each(tmp_path)
    (folder / "pack").rename(folder / "elsewhere")
    (folder / "pack").symlink_to("elsewhere")
    with pytest.raises(SpoolDamaged):
        restore_snapshot(taken, str(folder), str(restored))


def test_an_old_file_shares_its_blocks_in_both_directions(sharing_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_async.disk.clone.REFLINK_MIN_AGE_S", 0.0)
    saved, folder, restored = _lies_on(sharing_disk)
    content = os.urandom(2 * PACK_LIMIT_BYTES)
    (saved / "big").write_bytes(content)
    taken = take_snapshot(scan(saved), str(folder))
    assert taken.methods == {CloneMethod.REFLINK.value: 1}
    (saved / "big").write_bytes(b"gone")
    restore_snapshot(taken, str(folder), str(restored))
    assert (restored / "big").read_bytes() == content


_ROW = ["a", 1, 0o644, 5, "pack", 0]


@pytest.mark.parametrize(
    "change",
    [
        {"files": [["../a", *_ROW[1:]]]},
        {"files": [["/etc/passwd", *_ROW[1:]]]},
        {"files": [["a", -1, *_ROW[2:]]]},
        {"files": [["a", True, *_ROW[2:]]]},
        {"files": [["a", "1", *_ROW[2:]]]},
        {"files": [["a", 1, 0o644, 5.5, "pack", 0]]},
        {"files": [["a", 1, 0o644, 5, "../pack", 0]]},
        {"files": [["a", 1, 0o644, 5, "f000001/../../x", 0]]},
        {"files": [["a", 1, 0o644, 5, "f1", 0]]},
        {"files": [["a", 1, 0o644, 5, "f000001\n", 0]]},
        {"files": [["a", 1, 0o644, 5, "f000001", 3]]},
        {"files": [["a", 1, 0o644, 5, "pack", -3]]},
        {"files": [["a", 1, 0o644, 5, "pack"]]},
        {"files": [_ROW, _ROW]},
        {"files": "text"},
        {"files": None},
        {"files": [_ROW], "directories": ["a"]},
        {"directories": [".."]},
        {"directories": [7]},
        {"methods": {"copy": -1}},
        {"methods": ["copy"]},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    good = {"files": [_ROW], "directories": ["d"], "methods": {"packed": 1}}
    Snapshot.from_dict(good, "entry.json")
    with pytest.raises(SpoolDamaged, match=r"entry\.json"):
        Snapshot.from_dict({**good, **change}, "entry.json")


@pytest.mark.parametrize("data", [None, [], "text", {}, {"files": []}])
def test_what_is_no_description_is_refused(data: object) -> None:
    with pytest.raises(SpoolDamaged):
        Snapshot.from_dict(data, "entry.json")


def test_special_bits_of_a_mode_are_not_restored() -> None:
    data = {"files": [["a", 1, 0o6755, 5, "pack", 0]], "directories": [], "methods": {}}
    assert dataclasses.asdict(Snapshot.from_dict(data, "entry.json").files[0])["mode"] == 0o755
