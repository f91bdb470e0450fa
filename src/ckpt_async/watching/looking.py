"""Looking at a watched folder: its files as `completeness` decides on them, and as a save takes them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ckpt_async.disk.scan import ScannedTree, scan
from ckpt_async.watching.completeness import FileSeen, State
from ckpt_async.words.watch_rules import WatchRules

__all__ = ["Look", "look", "state_of"]


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes
    ----------
    tree : ScannedTree or None
        Without what is temporary; what is ignored may grow while it is taken. None where the folder is not there.
    state : State
        What counts of it.
    """

    tree: ScannedTree | None
    state: State

    def age_s(self, paths: Iterable[str]) -> float | None:
        """Return how long ago the newest of these files was written, in seconds; negative where a clock runs ahead."""
        newest_ns = max((self.state[path].mtime_ns for path in paths), default=None)
        return None if newest_ns is None else time.time() - newest_ns / 1e9


def look(root: str, rules: WatchRules) -> Look:
    """Look at a folder.

    Raises
    ------
    CheckpointError
        Something in it can't be saved.
    """
    if not os.path.isdir(root):
        return Look(None, {})
    tree = scan(root, leave_out=rules.is_temporary)
    files = tuple(dataclasses.replace(file, may_grow=True) if rules.is_ignored(file.path) else file for file in tree.files)
    tree = dataclasses.replace(tree, files=files)
    return Look(tree, state_of(tree, rules))


def state_of(tree: ScannedTree, rules: WatchRules) -> State:
    """Return what counts of a scan, whoever made it."""
    return {
        file.path: FileSeen(file.inode, file.size_bytes, file.mtime_ns)
        for file in tree.files
        if not (file.may_grow or rules.is_ignored(file.path) or rules.is_temporary(file.path))
    }
