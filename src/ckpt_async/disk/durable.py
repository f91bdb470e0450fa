"""Durable changes of the local disk: the one place that syncs, so that what is promised after a crash can be read in one file.

All functions block. They raise OSError as it comes: only the caller knows what the write was for, and words the error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys

from ckpt_async.words.errors import InvalidArgument

__all__ = [
    "make_private_folder",
    "remove_tree",
    "rename",
    "sync_descriptor",
    "sync_file",
    "sync_filesystem",
    "sync_folder",
    "sync_folder_descriptor",
    "write_file",
]

_REMOVE_TRIES = 5

# A file system that has no notion of syncing a folder says so with one of these (some FUSE and network ones).
_FOLDER_SYNC_UNKNOWN = (errno.EINVAL, errno.ENOTSUP)


def sync_descriptor(descriptor: int) -> None:
    """Return once the content of an open file is on the disk, not only in the disk's cache."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            # Not known on network volumes; fsync is all that there is.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
    os.fsync(descriptor)


def sync_file(path: str) -> None:
    """Return once the content of the file is on the disk. Its name needs `sync_folder` of its folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: str) -> None:
    """Return once the names in the folder (files created, renamed, removed) are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_folder_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_folder_descriptor(descriptor: int) -> None:
    """As `sync_folder`, of an open folder."""
    try:
        sync_descriptor(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_SYNC_UNKNOWN:
            raise


def sync_filesystem(path: str) -> bool:
    """Return True once all that was written to the file system of `path` is on the disk; False where the system has no such call.

    Of others' files, too: cheaper than `sync_file` only for many files.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # for a few

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if call(ctypes.c_int(descriptor)) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
    finally:
        os.close(descriptor)
    return True


def write_file(path: str, content: bytes, *, sync: bool = True, mode: int = 0o600) -> None:
    """Write a file whole or not at all; one that is there is replaced.

    Parameters
    ----------
    path : str
        The file. It is written under another name in the same folder (``.tmp-`` and random digits) and renamed.
    content : bytes
        All of it.
    sync : bool
        Whether content and name are on the disk when this returns. Without it they survive the death of every process, not that of
        the machine.
    mode : int
        Permission bits, whatever the umask.

    Raises
    ------
    OSError
        Nothing was changed, and the temporary file is gone. (Where only the last sync of the folder failed, the file is there.)
    """
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".tmp-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            if sync:
                sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if sync:
        sync_folder(folder)


def rename(source: str, target: str, *, sync: bool = True) -> None:
    """Rename a file or folder; with `sync` the change of both parent folders is on the disk when this returns."""
    os.rename(source, target)
    if sync:
        source_folder, target_folder = os.path.dirname(source) or ".", os.path.dirname(target) or "."
        # The new name first: a crash between the two may leave both names, never none.
        sync_folder(target_folder)
        if os.path.abspath(source_folder) != os.path.abspath(target_folder):
            sync_folder(source_folder)


def make_private_folder(path: str) -> None:
    """Make sure that a folder exists and that nobody but us can look into it.

    Parameters
    ----------
    path : str
        Missing parents are created too, all with mode 0700. One that is there must be a real folder of ours (no symbolic link);
        where group or others have access to it, they lose it.

    Raises
    ------
    InvalidArgument
        The path is something else, belongs to somebody else, or can't be created.
    """
    path = os.path.abspath(path)
    attempted = "prepare a private folder"
    try:
        missing = []
        current = path
        while not os.path.lexists(current):
            missing.append(current)
            current = os.path.dirname(current)
        for folder in reversed(missing):
            # Another process may have made it meanwhile: then it is checked below like any other.
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                os.chmod(folder, 0o700)  # the umask may have taken bits away
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise InvalidArgument(
                    attempted,
                    on=path,
                    cause=f"it belongs to user {found.st_uid}, this process runs as user {os.geteuid()}",
                    hint="Name a folder of your own.",
                )
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_mode & 0o700 != 0o700:
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            cause = "it is a symbolic link" if os.path.islink(path) else "it, or one of its parents, is not a folder"
        else:
            cause = error.strerror or str(error)
        raise InvalidArgument(
            attempted, on=path, cause=cause, hint="Name a folder that exists and is yours, or one that can be created."
        ) from error


def remove_tree(path: str) -> None:
    """Remove a folder with all that is in it, or a file, or a link itself. One that is missing is fine, also where others
    remove it at the same time; folders that their modes protect are made writable first.

    Raises
    ------
    OSError
        Something could not be removed.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    for _ in range(_REMOVE_TRIES - 1):
        try:
            _remove_folder(path)
            return
        except PermissionError:
            if not _open_up(path):
                raise
        except OSError as error:
            # A file came into it between the listing and the removal: a guard has put a private copy in the place of a link.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    _remove_folder(path)


def _remove_folder(path: str) -> None:
    # rmtree walks by descriptors, so a link that is put in a folder's place can't lead it elsewhere.
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=lambda _call, _path, error: _raise_unless_missing(error))
    else:
        shutil.rmtree(path, onerror=lambda _call, _path, info: _raise_unless_missing(info[1]))


def _raise_unless_missing(error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _open_up(path: str) -> bool:
    """Give us back the right to change the folders below `path`; True where a mode was changed."""
    changed = False
    folders = [path]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode):
                continue
            if found.st_mode & 0o700 != 0o700:
                os.chmod(folder, 0o700)
                changed = True
            with os.scandir(folder) as entries:
                folders.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    return changed
