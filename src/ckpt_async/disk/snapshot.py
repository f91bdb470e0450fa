"""A frozen copy of a folder: taken into a folder of the spool, described by a value.

Inside a snapshot's folder lie ``pack``, with all small files one after another, and ``f000001``, ``f000002``, ... with one
bigger file each: a guarded link to the original, or a copy.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckpt_async.disk.clone import (
    append_stable,
    choose_method,
    clone_stable,
    create_private,
    is_no_space,
    no_space,
)
from ckpt_async.disk.linking import LINK_MIN_BYTES, Guarded, LinkGuard, LinkResult, link_files, link_is_intact
from ckpt_async.disk.scan import Problem, ScannedFile, ScannedTree, printable, problems_error
from ckpt_async.words.errors import (
    CheckpointDamaged,
    SnapshotFailed,
    SpoolDamaged,
)
from ckpt_async.words.manifest import check_relative_path

__all__ = ["LINKED", "PACK", "PACKED", "PACK_LIMIT_BYTES", "Snapshot", "SnapshotFile", "changed_files", "take_snapshot"]

#: Smaller files are packed, unless they are linked (`LINK_MIN_BYTES`). µs a file, packed and alone (ext4): 10 KiB 20 and 70,
#: 256 KiB 95 and 120, 1 MiB 380 and 610.
PACK_LIMIT_BYTES = 1024 * 1024

#: The name of the file that holds the small ones.
PACK = "pack"

#: What `Snapshot.methods` counts packed files under.
PACKED = "packed"

#: What it counts files under that are guarded links.
LINKED = "link"

_HINT_LINK = "With snapshot='auto' such files are copied."

_OWN_FILE = re.compile(r"f[0-9]{6,12}")


@dataclass(frozen=True)
class SnapshotFile:
    """A file inside a snapshot; nothing has read it for a digest yet.

    Attributes
    ----------
    path : str
        Relative to the saved folder, parts joined by ``/``.
    size_bytes : int
        Its length.
    mode : int
        Permission bits of the original.
    mtime_ns : int
        Of the original, nanoseconds since 1970.
    stored_in : str
        The file inside the snapshot's folder that holds the content.
    offset : int
        Where the content starts in it, in bytes.
    inode : int
        Of the original, where `stored_in` is a link to it that a guard may have made private since; else 0.
    content : str
        Of a link, the guard's name for its bytes: files with one name hold the same. Else empty.
    """

    path: str
    size_bytes: int
    mode: int
    mtime_ns: int
    stored_in: str
    offset: int
    inode: int = 0
    content: str = ""

    def to_row(self) -> list[Any]:
        """Return the file for a JSON object."""
        row = [self.path, self.size_bytes, self.mode, self.mtime_ns, self.stored_in, self.offset]
        return [*row, self.inode, self.content] if self.inode else row

    def is_intact(self, found: os.stat_result) -> bool:
        """Return whether the file inside the snapshot is what it was, as far as its state tells."""
        if not self.inode:
            return True
        return link_is_intact(found, inode=self.inode, size_bytes=self.size_bytes, mtime_ns=self.mtime_ns)


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot's folder holds.

    Attributes
    ----------
    files : tuple of SnapshotFile
        Sorted by path.
    directories : tuple of str
        Every folder below the saved one, relative, sorted.
    methods : dict of str to int
        How many files were taken in which way: ``"link"``, the values of `CloneMethod`, and ``"packed"``.
    """

    files: tuple[SnapshotFile, ...]
    directories: tuple[str, ...]
    methods: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)

    @property
    def links(self) -> list[SnapshotFile]:
        """The files that were linked."""
        return [file for file in self.files if file.inode]

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as a JSON object; `from_dict` reads it. A file is a row, for there may be many."""
        return {
            "files": [f.to_row() for f in self.files],
            "directories": list(self.directories),
            "methods": dict(self.methods),
        }

    @classmethod
    def from_dict(cls, data: object, source: str) -> Snapshot:
        """Read what `to_dict` returned.

        Parameters
        ----------
        data : object
            From JSON.
        source : str
            Where it was read, for the error.

        Raises
        ------
        SpoolDamaged
            It is something else, or a path in it leads out of the folder that it is restored to or read from.
        """
        try:
            if not isinstance(data, Mapping):
                raise TypeError(f"{type(data).__name__} in place of an object")
            files = tuple(_file_of(row, source) for row in data["files"])
            directories = tuple(check_relative_path(path, source) for path in data["directories"])
            methods = {str(name): _count(number) for name, number in data["methods"].items()}
            paths = {file.path for file in files}
            if len(paths) != len(files) or not paths.isdisjoint(directories):
                raise ValueError("a path is there twice")
        except (KeyError, TypeError, ValueError, AttributeError, CheckpointDamaged) as error:
            cause = error.cause if isinstance(error, CheckpointDamaged) else f"{type(error).__name__}: {error}"
            raise SpoolDamaged("read the description of a snapshot", on=source, cause=cause) from error
        return cls(files, directories, methods)


def _count(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{number!r} is not a number of 0 or more")
    return number


def _file_of(row: Any, source: str) -> SnapshotFile:
    path, size_bytes, mode, mtime_ns, stored_in, offset, *linked = row
    if len(linked) not in (0, 2) or (linked and stored_in == PACK):
        raise ValueError(f"{row!r} is no file")
    inode, content = linked or (0, "")
    if not isinstance(mtime_ns, int) or isinstance(mtime_ns, bool):
        raise TypeError(f"{mtime_ns!r} is not a time")  # times before 1970 are negative
    if not isinstance(stored_in, str) or not (stored_in == PACK or _OWN_FILE.fullmatch(stored_in)):
        raise ValueError(f"{stored_in!r} is not a file of a snapshot")
    if stored_in != PACK and offset != 0:
        raise ValueError(f"{stored_in} holds one file, yet it starts at {offset!r}")
    mode = _count(mode) & 0o777
    path = check_relative_path(path, source)
    return SnapshotFile(path, _count(size_bytes), mode, mtime_ns, stored_in, _count(offset), _count(inode), str(content))


def take_snapshot(tree: ScannedTree, folder: str, *, way: str = "auto", guard: LinkGuard | None = None) -> Snapshot:
    """Take what a scan found, so that nothing done to the originals afterwards changes it.

    Each file is taken in one consistent state, which is the one at the scan or, where it changed since, a later one. Nothing
    is synced. In this order, per file: a guarded link, a reflink, a copy.

    Parameters
    ----------
    tree : ScannedTree
        What to take.
    folder : str
        Exists, is empty and is ours. All files in it get mode 0600, apart from links, which have that of their originals.
    way : str
        ``"auto"``; ``"copy"``: no links; ``"link"``: no copies of what is large enough to be linked.
    guard : LinkGuard, optional
        Without it nothing is linked.

    Returns
    -------
    Snapshot
        With sizes, modes and times as they were when the content was read.

    Raises
    ------
    SnapshotFailed
        A file is gone, unreadable or keeps changing, or the disk is full; with ``way="link"``, one can't be linked. What was taken
        stays in `folder`, for the caller to remove.
    """
    links = LinkResult()
    large = [file for file in tree.files if file.size_bytes >= LINK_MIN_BYTES and not file.may_grow] if way != "copy" else []
    if large and guard is not None:
        links = link_files(large, folder, guard)
    if way == "link" and len(links.linked) < len(large):
        _refuse_unlinked(tree, large, links)
    taking = _Taking(folder, tree.size_bytes, links)
    try:
        files = tuple(taking.take(file) for file in tree.files)
    finally:
        taking.close()
    return Snapshot(files, tree.directories, taking.methods)


def _refuse_unlinked(tree: ScannedTree, large: list[ScannedFile], links: LinkResult) -> None:
    nobody = "can't be linked: there is no process beside this one that could guard it"
    problems = [
        Problem(file.path, f"is not linked: {links.refused[file.path]}" if file.path in links.refused else nobody, _HINT_LINK)
        for file in large
        if file.path not in links.linked
    ]
    raise problems_error(tree.root, problems)


def changed_files(tree: ScannedTree, snapshot: Snapshot) -> list[str]:
    """Return the paths of the files that had another state when they were taken than at the scan; not those that may grow."""
    return [
        file.path
        for file, taken in zip(tree.files, snapshot.files, strict=True)
        if not file.may_grow and (taken.size_bytes, taken.mtime_ns) != (file.size_bytes, file.mtime_ns)
    ]


class _Taking:
    """A snapshot under way. Owns the descriptor of the pack."""

    def __init__(self, folder: str, size_bytes: int, links: LinkResult) -> None:
        self.methods: dict[str, int] = {}
        self._folder = folder
        self._left_bytes = size_bytes
        self._pack = -1
        self._pack_bytes = 0
        self._own_files = links.names_used
        self._linked = links.linked
        self._reflink_works = True

    def take(self, file: ScannedFile) -> SnapshotFile:
        if file.path in self._linked:
            return self._link(file, *self._linked[file.path])
        try:
            taken = self._packed(file) if file.size_bytes < PACK_LIMIT_BYTES else self._own(file)
        except OSError as error:
            if is_no_space(error):
                raise no_space(os.path.join(self._folder, PACK), self._left_bytes, error) from error
            on = f"{printable(file.absolute)} to {printable(self._folder)}"
            raise SnapshotFailed("copy a file", on=on, cause=error.strerror or str(error)) from error
        self._left_bytes -= file.size_bytes
        return taken

    def close(self) -> None:
        if self._pack >= 0:
            os.close(self._pack)
            self._pack = -1

    def _link(self, file: ScannedFile, name: str, state: Guarded) -> SnapshotFile:
        self._left_bytes -= file.size_bytes
        self._count(LINKED)
        return SnapshotFile(file.path, state.size_bytes, state.mode, state.mtime_ns, name, 0, state.inode, state.content)

    def _packed(self, file: ScannedFile) -> SnapshotFile:
        if self._pack < 0:
            self._pack = create_private(os.path.join(self._folder, PACK))
        offset = self._pack_bytes
        cloned = append_stable(file.absolute, self._pack, offset, may_grow=file.may_grow)
        self._pack_bytes += cloned.size_bytes
        self._count(PACKED)
        return SnapshotFile(file.path, cloned.size_bytes, cloned.mode, cloned.mtime_ns, PACK, offset)

    def _own(self, file: ScannedFile) -> SnapshotFile:
        self._own_files += 1
        stored_in = f"f{self._own_files:06d}"
        method = choose_method(size_bytes=file.size_bytes, age_s=_age_s(file.absolute), reflink_works=self._reflink_works)
        cloned = clone_stable(file.absolute, os.path.join(self._folder, stored_in), method, may_grow=file.may_grow)
        if cloned.method is not method:
            self._reflink_works = False  # not on this pair of file systems: don't ask for each file
        self._count(cloned.method.value)
        return SnapshotFile(file.path, cloned.size_bytes, cloned.mode, cloned.mtime_ns, stored_in, 0)

    def _count(self, method: str) -> None:
        self.methods[method] = self.methods.get(method, 0) + 1


def _age_s(path: str) -> float:
    """Return how long ago the file was last changed; 0 where it is gone (the copy reports that)."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0.0
    # A copy that keeps times has an old mtime and is dirty all the same: its inode's time tells.
    return time.time() - max(found.st_mtime, found.st_ctime)
