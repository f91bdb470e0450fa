from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from ckpt_async.words.errors import CheckpointDamaged
from ckpt_async.words.manifest import Manifest, ManifestFile, check_relative_path

FILES = (
    ManifestFile("a", 3, "0000000a", 0o644, 1),
    ManifestFile("b/größe.bin", 0, "00000000", 0o600, -5),
    ManifestFile("b/c", 2**40, "ffffffff", 0o755, 2**62, 512),
)
MANIFEST = Manifest("the/key", "files", FILES, ("b", "empty"))


def sealed(**changes: Any) -> bytes:
    """A manifest with another content, whose checksum is right: what a hostile writer would make."""
    body = {**json.loads(MANIFEST.to_json())["manifest"], **changes}
    return json.dumps({"manifest": body, "crc32": f"{zlib.crc32(json.dumps(body, sort_keys=True).encode()):08x}"}).encode()


def row(
    path: object = "x", size: object = 1, digest: object = "0", mode: object = 0o644, mtime: object = 0, offset: object = -1
) -> list[object]:
    return [path, size, digest, mode, mtime, offset]


def test_a_manifest_survives_the_store() -> None:
    assert Manifest.from_json(MANIFEST.to_json(), source="here") == MANIFEST
    assert Manifest.from_json(sealed(), source="here") == MANIFEST
    assert MANIFEST.size_bytes == 3 + 2**40


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, len(MANIFEST.to_json()) - 1), st.integers(1, 255))
def test_any_changed_byte_is_seen(position: int, change: int) -> None:
    text = bytearray(MANIFEST.to_json())
    text[position] ^= change
    try:
        read = Manifest.from_json(bytes(text), source="here")
    except CheckpointDamaged:
        return
    # White space, or the two ways to write one character: the content is the same.
    assert read == MANIFEST


def test_a_manifest_that_was_cut_off_is_seen() -> None:
    text = MANIFEST.to_json()
    for end in range(len(text)):
        with pytest.raises(CheckpointDamaged, match="here"):
            Manifest.from_json(text[:end], source="here")


HOSTILE_PATHS = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "a/./b",
    "a\0b",
    "\ud800",
    3,
    None,
    ["a"],
]


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_path_out_of_the_folder_is_refused(path: object) -> None:
    with pytest.raises(CheckpointDamaged):
        check_relative_path(path, "here")
    with pytest.raises(CheckpointDamaged):
        Manifest.from_json(sealed(files=[row(path)]), source="here")
    with pytest.raises(CheckpointDamaged):
        Manifest.from_json(sealed(directories=[path]), source="here")


@pytest.mark.parametrize("path", ["a", "a/b", "..a", "a..", "...", " ", "~", "-", "a\\b", "a\nb", "größe", ".hidden/.x"])
def test_an_unusual_path_is_fine(path: str) -> None:
    assert check_relative_path(path, "here") == path


@pytest.mark.parametrize(
    "files",
    [
        [row(), row()],
        [row("a"), row("a/b")],
        [row("a/b/c"), row("a")],
        [row("b")],
        [row(size=-1)],
        [row(size=True)],
        [row(size="1")],
        [row(size=1.5)],
        [row(size=2**70)],
        [row(mtime=10**30)],
        [row(digest=5)],
        [row(mode="0644")],
        [["x", 1]],
        ["x"],
        None,
        5,
    ],
    ids=repr,
)
def test_files_that_cannot_be_are_damage(files: object) -> None:
    with pytest.raises(CheckpointDamaged, match="here"):
        Manifest.from_json(sealed(files=files), source="here")


def test_a_later_format_says_what_to_do() -> None:
    with pytest.raises(CheckpointDamaged, match="newer"):
        Manifest.from_json(sealed(format_version=2), source="here")
    for text in (b"", b"[]", b"null", b"{}", b'{"manifest": 1, "crc32": 1}', b"\xff", b"[" * 100_000):
        with pytest.raises(CheckpointDamaged):
            Manifest.from_json(text, source="here")
