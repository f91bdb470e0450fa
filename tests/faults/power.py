"""What is left of a folder after a power failure: only what was synced.

A file has the content of its last sync; a folder holds the names that it held at its last sync. Whatever was written, made,
renamed or removed since is gone. That is stricter than any file system: what survives here survives there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(eq=False)
class Node:
    """A file or folder as the disk has it."""

    is_folder: bool
    content: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)
    #: The folder whose sync wrote the name down last: a folder that was renamed is in one place only.
    home: Node | None = None


def copy_of(node: Node) -> Node:
    """Freeze the state of this moment."""
    copies: dict[Node, Node] = {}

    def copy(one: Node) -> Node:
        if one not in copies:
            copies[one] = Node(one.is_folder, one.content)
            copies[one].names = {name: copy(child) for name, child in one.names.items() if child.home is one}
        return copies[one]

    return copy(node)


def write_down(node: Node, target: Path) -> None:
    """Make real what a frozen state holds, as what `target`, a folder that exists, has in it."""
    for name, child in node.names.items():
        if child.is_folder:
            (target / name).mkdir(mode=0o700)
            write_down(child, target / name)
        else:
            (target / name).write_bytes(child.content)


class Disk:
    """Watches everything below a folder that exists and is on the disk. Install it before anything is made there.

    Parameters
    ----------
    root : Path
        The folder.
    on_sync : callable
        Called after each sync below the root, or of it, in the thread that synced.

    Attributes
    ----------
    root : Node
        What the disk has.
    guard : threading.RLock
        Nothing changes in it while this is held.
    """

    def __init__(self, root: Path, on_sync: Callable[[], None]) -> None:
        self._root = os.path.realpath(root)
        self._on_sync = on_sync
        self.guard = threading.RLock()
        self._nodes: dict[tuple[int, int], Node] = {}
        self.root = self._node(os.stat(root))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("open", "mkdir", "fsync"):
            monkeypatch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))

    def _node(self, found: os.stat_result, *, fresh: bool = False) -> Node:
        key = found.st_dev, found.st_ino
        with self.guard:
            if fresh or key not in self._nodes:
                self._nodes[key] = Node(os.path.stat.S_ISDIR(found.st_mode))
            return self._nodes[key]

    def _open(self, original: Any) -> Any:
        def act(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            is_new = bool(flags & os.O_CREAT) and dir_fd is None and not os.path.lexists(path)
            descriptor: int = original(path, flags, mode, dir_fd=dir_fd)
            if is_new:
                self._node(os.fstat(descriptor), fresh=True)  # The number may have been another file's, which is gone.
            return descriptor

        return act

    def _mkdir(self, original: Any) -> Any:
        def act(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            original(path, mode, dir_fd=dir_fd)
            self._node(os.stat(path, dir_fd=dir_fd), fresh=True)

        return act

    def _fsync(self, original: Any) -> Any:
        def act(descriptor: int) -> None:
            original(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if path != self._root and not path.startswith(self._root + "/"):
                return
            with self.guard:
                node = self._node(os.fstat(descriptor))
                if node.is_folder:
                    self._note_names(node, path)
                else:
                    node.content = Path(path).read_bytes()
            self._on_sync()

        return act

    def _note_names(self, node: Node, path: str) -> None:
        node.names = {}
        for name in os.listdir(path):
            try:
                child = self._node(os.lstat(os.path.join(path, name)))
            except FileNotFoundError:
                continue  # Renamed or removed in this moment.
            node.names[name] = child
            child.home = node
