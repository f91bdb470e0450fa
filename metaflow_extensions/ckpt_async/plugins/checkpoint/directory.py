"""The checkpoint directory: made for an attempt, removed at its end, or by the next attempt where the process was killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile

from ckpt_async import InvalidArgument, TaskIdentity, short_hash

__all__ = [
    "empty_directory",
    "link_to_directory",
    "make_directory",
    "not_made",
    "remove_directories_of_dead_attempts",
    "remove_directory",
    "remove_link",
]

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
        raise not_made(error, root) from error


def not_made(error: OSError, root: str | None) -> InvalidArgument:
    """Return what to raise where no folder can be made under `root`."""
    return InvalidArgument(
        "make the checkpoint directory",
        on=error.filename or root or tempfile.gettempdir(),
        cause=error.strerror or str(error),
        hint="Set temp_dir_root to a folder that can be written to.",
    )


def remove_directory(directory: str) -> None:
    """Remove a checkpoint directory with all that is in it; one that is gone is fine.

    Raises
    ------
    InvalidArgument
        Something in it can't be removed.
    """
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_removed(error, directory) from error


def empty_directory(directory: str) -> None:
    """Remove all that is in a checkpoint directory, and make it anew where it is gone.

    Raises
    ------
    InvalidArgument
        Something in it can't be removed, or it can't be made.
    """
    try:
        # A folder that is there is kept, and with it its path and its owner's shells and open handles.
        if not os.path.lexists(directory):
            os.mkdir(directory, 0o700)
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
    except OSError as error:
        raise _not_removed(error, directory) from error


def _not_removed(error: OSError, directory: str) -> InvalidArgument:
    return InvalidArgument(
        "empty the checkpoint directory",
        on=error.filename or directory,
        cause=error.strerror or str(error),
        hint="What was saved is not touched by this.",
    )


def remove_directories_of_dead_attempts(root: str | None, identity: TaskIdentity, node_index: int) -> None:
    """Remove what earlier attempts of this task had to leave behind because they were killed. Those still alive keep theirs."""
    parent = root or tempfile.gettempdir()
    name = re.compile(re.escape(_prefix_of_task(identity, node_index)) + r"(\d+)_(\d+)_.*")
    try:
        with os.scandir(parent) as entries:
            candidates = [(entry.path, match) for entry in entries if (match := name.fullmatch(entry.name))]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # Nothing is there that could be removed, or found: whoever needs the folder tells what is wrong with it.
    for path, match in candidates:
        if int(match[1]) < identity.attempt and not _is_alive(int(match[2])) and _is_own_folder(path):
            # What can't be removed stays, as it would have without us; the attempt does not depend on it.
            shutil.rmtree(path, ignore_errors=True)


def link_to_directory(path: str, directory: str) -> str:
    """Let `path` lead to a checkpoint directory, for a writer that has it built in; returns it, absolute.

    What the user has there is never touched: only an empty folder, or the link of an attempt that is dead, is replaced.

    Raises
    ------
    InvalidArgument
        Something else is there, or it can't be made.
    """
    path = os.path.abspath(os.path.expanduser(path))
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path) and _is_link_of_dead_attempt(path):
            os.unlink(path)
        elif os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        os.symlink(directory, path)
    except OSError as error:
        cause = error.strerror or str(error)
        if os.path.islink(path):
            cause = f"it is a link to {os.readlink(path)!r}, of a task that is alive or of somebody else"
        elif os.path.lexists(path) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            cause = "it is there, and is no empty folder"
        raise InvalidArgument(
            "have a folder watched",
            on=path,
            cause=cause,
            hint="Name a path that is missing, or an empty folder that may be replaced by a link; let the writer use "
            "current.checkpoint.directory where it can.",
        ) from error
    return path


def remove_link(path: str, directory: str) -> None:
    """Remove what `link_to_directory` has made, unless something else stands there by now."""
    try:
        if os.readlink(path) == directory:
            os.unlink(path)
    except OSError:
        return  # It is gone, or no link any more, or stays, as a link to nothing that the next attempt replaces.


def _is_link_of_dead_attempt(path: str) -> bool:
    match = re.fullmatch(re.escape(PREFIX) + r"[0-9a-f]+_\d+_(\d+)_.*", os.path.basename(os.readlink(path)))
    return match is not None and not _is_alive(int(match[1]))


def _is_alive(pid: int) -> bool:
    """Tell whether another process has this number. In a container that was started anew, a dead attempt had that of ours."""
    if pid == os.getpid():
        return False
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
