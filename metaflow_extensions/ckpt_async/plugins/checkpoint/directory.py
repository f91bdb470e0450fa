"""The checkpoint directory: made for an attempt, removed at its end, or by the next attempt where the process was killed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile

from ckpt_async import InvalidArgument, TaskIdentity, short_hash

__all__ = ["make_directory", "remove_directories_of_dead_attempts"]

PREFIX = "metaflow_checkpoint_"


def _prefix_of_task(identity: TaskIdentity, node_index: int) -> str:
    return f"{PREFIX}{short_hash(f'{identity.pathspec} {node_index}')}_"


def make_directory(root: str | None, identity: TaskIdentity, node_index: int) -> str:
    """Make an empty, private folder under `root` (by default the system's folder for temporary files); returns its path.

    Its name tells task, attempt and process, so that a later attempt knows whose it was.

    Raises
    ------
    InvalidArgument
        It can't be made there.
    """
    try:
        if root is not None:
            os.makedirs(root, exist_ok=True)
        return tempfile.mkdtemp(prefix=f"{_prefix_of_task(identity, node_index)}{identity.attempt}_{os.getpid()}_", dir=root)
    except OSError as error:
        raise InvalidArgument(
            "make the checkpoint directory",
            on=error.filename or root or tempfile.gettempdir(),
            cause=error.strerror or str(error),
            hint="Set temp_dir_root to a folder that can be written to.",
        ) from error


def remove_directories_of_dead_attempts(root: str | None, identity: TaskIdentity, node_index: int) -> None:
    """Remove what earlier attempts of this task had to leave behind because they were killed. Those still alive keep theirs."""
    parent = root or tempfile.gettempdir()
    name = re.compile(re.escape(_prefix_of_task(identity, node_index)) + r"(\d+)_(\d+)_.*")
    with os.scandir(parent) as entries:
        candidates = [(entry.path, match) for entry in entries if (match := name.fullmatch(entry.name))]
    for path, match in candidates:
        if int(match[1]) < identity.attempt and not _is_alive(int(match[2])) and _is_own_folder(path):
            # What can't be removed stays, as it would have without us; the attempt does not depend on it.
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_own_folder(path: str) -> bool:
    """The parent may be a folder for everybody: no link is followed, nothing of another user is touched."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
