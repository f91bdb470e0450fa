"""What is left of a folder after a power failure.

A file has the content of its last sync. As to names there are two extremes, and what survives both survives what lies between: of a
folder only the names are left that it held at its last sync (stricter than any file system), or all of them (a journal of
names, which most file systems have), and then what was not synced is there and empty.

A file that the training still has under a name of its own is the worst of both: whatever it writes may reach the disk at once.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest


@dataclass(eq=False)
class Node:
    """A file or folder as the disk has it."""

    is_folder: bool
    content: bytes = field(default=b"", repr=False)
    mtime_ns: int = 0
    names: dict[str, Node] = field(default_factory=dict, repr=False)
    #: The folder whose sync wrote the name down last: a folder that was renamed is in one place only.
    home: Node | None = field(default=None, repr=False)

    def is_in(self, folder: Node) -> bool:
        """Whether a folder that had it at its last sync still has it. A file may have several names."""
        return self.home is folder or not self.is_folder


def write_down(node: Node, target: Path) -> None:
    """Make real what a frozen state holds, as what `target`, a folder that exists, has in it."""
    for name, child in node.names.items():
        if child.is_folder:
            (target / name).mkdir(mode=0o700)
            write_down(child, target / name)
        else:
            (target / name).write_bytes(child.content)
            os.utime(target / name, ns=(child.mtime_ns, child.mtime_ns))


class Watch(Protocol):
    """Told of what a process does below the root."""

    def made(self, device: int, inode: int, is_folder: bool) -> None:
        """Take a file or folder for a new one: its number may have been another's, which is gone."""

    def synced(self, pid: int, descriptor: int) -> None:
        """Note what was just synced: what this descriptor of this process, which waits meanwhile, stands for."""


def install(watch: Watch, patch: Callable[[str, Any], None]) -> None:
    """Have this process tell what it makes and syncs; `patch` replaces a function of `os`."""
    true_open, true_mkdir, true_fsync = os.open, os.mkdir, os.fsync

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        is_new = bool(flags & os.O_CREAT) and dir_fd is None and not os.path.lexists(path)
        descriptor: int = true_open(path, flags, mode, dir_fd=dir_fd)
        if is_new:
            _tell_made(watch, os.fstat(descriptor))
        return descriptor

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        true_mkdir(path, mode, dir_fd=dir_fd)
        _tell_made(watch, os.stat(path, dir_fd=dir_fd))

    def fsync(descriptor: int) -> None:
        true_fsync(descriptor)
        watch.synced(os.getpid(), descriptor)

    for name, function in (("open", open_), ("mkdir", mkdir), ("fsync", fsync)):
        patch(name, function)


def _tell_made(watch: Watch, found: os.stat_result) -> None:
    watch.made(found.st_dev, found.st_ino, stat.S_ISDIR(found.st_mode))


class Disk:
    """A `Watch` over everything below a folder that exists and is on the disk, from before anything is made there.

    Parameters
    ----------
    root : Path
        The folder.
    training : Path
        A folder with files that may be linked from below the root.
    on_sync : callable
        Called after each sync below the root, or of it, in the thread that synced.

    Attributes
    ----------
    guard : threading.RLock
        Nothing is noted while this is held.
    watching : bool
        Whether anything is noted at all.
    """

    def __init__(self, root: Path, training: Path, on_sync: Callable[[], None]) -> None:
        self._root = os.path.realpath(root)
        self._training = training
        self._on_sync = on_sync
        self.guard = threading.RLock()
        self._nodes: dict[tuple[int, int], Node] = {}
        self.watching = True
        self._top = self._node(os.stat(root))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(self, lambda name, function: monkeypatch.setattr(os, name, function))

    def made(self, device: int, inode: int, is_folder: bool) -> None:
        with self.guard:
            if self.watching:
                self._nodes[device, inode] = Node(is_folder)

    def synced(self, pid: int, descriptor: int) -> None:
        place = f"/proc/{pid}/fd/{descriptor}"
        path = os.readlink(place)
        if not self.watching or (path != self._root and not path.startswith(self._root + "/")):
            return
        with self.guard:
            node = self._node(os.stat(place))
            if node.is_folder:
                node.names = self._names_in(place)
                for child in node.names.values():
                    child.home = node
            else:
                node.content, node.mtime_ns = Path(place).read_bytes(), os.stat(place).st_mtime_ns
        self._on_sync()

    def strictly(self) -> Node:
        """Return what is left at least: the names of the last sync."""
        with self.guard:
            return self._copy(self._top, lambda node: {name: one for name, one in node.names.items() if one.is_in(node)})

    def with_all_names(self) -> Node:
        """Return what is left where names reach the disk at once."""
        with self.guard:
            live = None
            while live != (again := self._live(self._root)):  # Another process may be moving something.
                live = again
            return self._copy(self._top, lambda node: again[node])

    def _copy(self, top: Node, names_of: Callable[[Node], dict[str, Node]]) -> Node:
        copies: dict[Node, Node] = {}
        shared: dict[Node, Node] = {}
        for path in self._training.rglob("*"):
            found = path.stat()
            if stat.S_ISREG(found.st_mode) and (known := self._nodes.get((found.st_dev, found.st_ino))) is not None:
                shared[known] = Node(False, path.read_bytes(), found.st_mtime_ns)

        def copy(one: Node) -> Node:
            if one not in copies:
                now = shared.get(one, one)
                copies[one] = Node(one.is_folder, now.content, now.mtime_ns)
                copies[one].names = {name: copy(child) for name, child in names_of(one).items()} if one.is_folder else {}
            return copies[one]

        return copy(top)

    def _live(self, path: str) -> dict[Node, dict[str, Node]]:
        """Return the names that each folder has at this moment."""
        names = self._names_in(path)
        found = {self._node(os.stat(path)): names}
        for name, child in names.items():
            if child.is_folder:
                try:
                    found |= self._live(os.path.join(path, name))
                except FileNotFoundError:
                    found[child] = {}
        return found

    def _node(self, found: os.stat_result) -> Node:
        return self._nodes.setdefault((found.st_dev, found.st_ino), Node(stat.S_ISDIR(found.st_mode)))

    def _names_in(self, folder: str) -> dict[str, Node]:
        names = {}
        for name in os.listdir(folder):
            try:
                names[name] = self._node(os.lstat(os.path.join(folder, name)))
            except FileNotFoundError:
                continue  # Renamed or removed in this moment.
        return names
