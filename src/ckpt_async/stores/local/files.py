"""The files under the root of a local store: finding, replacing, removing. Blocks, so it runs in threads."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ckpt_async.disk import durable
from ckpt_async.stores.contract import ObjectInfo, check_key
from ckpt_async.words.errors import (
    InvalidArgument,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)

__all__ = ["LocalFiles", "etag_of"]

_T = TypeVar("_T")

TEMP_FOLDER = ".ckpt-async-tmp"
LOCK_TIMEOUT_S = 30.0
# How often a folder that another process removes, because it is empty, is made again.
FOLDER_TRIES = 50
# What a dead process may have left; an upload in parts may be taken up again days later.
STALE_FILE_S = 24 * 3600.0
STALE_UPLOAD_S = 14 * 24 * 3600.0
UPLOAD_MARK = "upload-"
# A sync of one file costs as much as that of many: the file system writes its journal for each.
SYNC_EACH = 32


def etag_of(found: os.stat_result) -> str:
    """Return what changes whenever a file is replaced: inode, size, time.

    `LocalFiles.publish` sets the time itself, in nanoseconds: the kernel's own time stamps stand still for milliseconds, in
    which a file may be replaced twice and get its first inode back.
    """
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


class LocalFiles:
    """The files of one store.

    Parameters
    ----------
    root : str
        An absolute path. Never made: a missing root is a datastore that is not there.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._temp_folder: str | None = None

    def path(self, key: str) -> str:
        """Return the path of a key. Symbolic links among its folders are followed.

        Raises
        ------
        InvalidArgument
            It is no key, or lies in the store's folder for temporary files.
        StoreRejected
            A symbolic link leads out of the store.
        """
        check_key(key)
        if key.split("/", 1)[0].startswith(TEMP_FOLDER):
            raise InvalidArgument("use a key of a store", on=repr(key), cause="the store keeps its temporary files there")
        path = os.path.join(self.root, key)
        folder = os.path.realpath(os.path.dirname(path))
        self._check_inside(folder, key)
        return os.path.join(folder, os.path.basename(path))

    def real_path(self, key: str) -> str:
        """Return the path that is read for a key: links of the last part are followed as well."""
        path = os.path.realpath(self.path(key))
        self._check_inside(path, key)
        return path

    @contextlib.contextmanager
    def opened(self, attempted: str, key: str, if_match: str | None = None) -> Iterator[tuple[int, os.stat_result]]:
        """Open the file of a key for reading; yield a descriptor and its state.

        Raises
        ------
        StoreObjectMissing
            There is none.
        StorePreconditionFailed
            Its etag is not `if_match`.
        """
        on = os.path.join(self.root, key)
        try:
            # Without waiting: a fifo in the place of a file would hold the thread for ever.
            descriptor = os.open(self.real_path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(self.root):
                raise
            raise StoreObjectMissing(attempted, on=on) from None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise StoreObjectMissing(attempted, on=on, cause="it is no file")
            if if_match is not None and etag_of(found) != if_match:
                raise StorePreconditionFailed(attempted, on=on, cause="it is not the expected one")
            yield descriptor, found
        finally:
            os.close(descriptor)

    def is_inside(self, path: str) -> bool:
        """Whether a path without symbolic links is the root or below it."""
        root = os.path.realpath(self.root)
        return path == root or path.startswith(root.rstrip("/") + "/")

    def _check_inside(self, path: str, key: str) -> None:
        if not self.is_inside(path):
            cause = f"a symbolic link leads out of the store's root, to {path}"
            raise StoreRejected("use a key of a store", on=key, cause=cause)

    def temp_folder(self) -> str:
        """Return the folder for files in the making; made when it is not there, closed to other users."""
        if self._temp_folder is None or not os.path.isdir(self._temp_folder):
            folder = os.path.join(self.root, TEMP_FOLDER)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            if os.stat(folder).st_uid != os.geteuid():
                # Another user of this store was first: a folder for each.
                folder = f"{folder}-{os.geteuid()}"
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
            self._sweep(folder)
            self._temp_folder = folder
        return self._temp_folder

    def temp_folders(self) -> list[str]:
        """Return the folders of this user for files in the making that are there."""
        base = os.path.join(self.root, TEMP_FOLDER)
        found = []
        for folder in (base, f"{base}-{os.geteuid()}"):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(folder).st_uid == os.geteuid():
                    found.append(folder)
        return found

    def new_file(self) -> tuple[int, str]:
        """Make a temporary file; return a descriptor to write it, and its path. Its mode is that of any new file of this user."""
        path = os.path.join(self.temp_folder(), f"put-{secrets.token_hex(12)}")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path

    def publish(
        self,
        descriptor: int,
        temp_path: str,
        key: str,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        sync: bool = True,
    ) -> ObjectInfo:
        """Put a finished temporary file in the place of a key, whole and, with `sync`, durably.

        Raises
        ------
        StorePreconditionFailed
            The condition does not hold.
        """
        now_ns = time.time_ns()
        os.utime(descriptor, ns=(now_ns, now_ns))
        if sync:
            durable.sync_descriptor(descriptor)

        def move(folder: int, name: str) -> ObjectInfo:
            self._check_condition(folder, name, key, if_match, if_absent)
            try:
                os.rename(temp_path, name, dst_dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                    raise StoreRejected("store an object", on=key, cause="there is a folder of that name") from error
                raise
            found = os.fstat(descriptor)
            return ObjectInfo(key, found.st_size, etag_of(found))

        path = self.path(key)
        for attempt in range(1, FOLDER_TRIES + 1):
            try:
                self._make_folder(os.path.dirname(path), key)
                return self._in_folder(path, move, sync=sync)
            except FileNotFoundError:
                # Whoever deletes the last object of a folder removes the folder.
                if attempt == FOLDER_TRIES or not os.path.exists(temp_path) or not os.path.isdir(self.root):
                    raise
        raise AssertionError("not reached")

    def settle(self, keys: Sequence[str]) -> None:
        """Sync the files of these keys and their folders: each of a few, all of the file system's where there are many."""
        if len(keys) > SYNC_EACH and durable.sync_filesystem(self.root):
            return
        folders = set()
        for key in keys:
            path = self.real_path(key)
            try:
                durable.sync_file(path)
            except FileNotFoundError:
                continue
            folders.add(os.path.dirname(path))
        for folder in folders:
            durable.sync_folder(folder)

    def remove(self, key: str) -> None:
        """Remove the file of a key, and the folders that are empty then. Nothing happens where there is no file."""

        def unlink(folder: int, name: str) -> None:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)

        path = self.path(key)
        try:
            self._in_folder(path, unlink)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.isdir(self.root):
                raise
        self._prune(os.path.dirname(path))

    def _prune(self, folder: str) -> None:
        root = os.path.realpath(self.root)
        while folder != root:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                # Not empty, or not ours to remove: an empty folder does no harm.
                return
            folder = os.path.dirname(folder)

    def _make_folder(self, folder: str, key: str) -> None:
        missing = []
        while not os.path.isdir(folder):
            if folder == os.path.realpath(self.root) or os.path.lexists(folder):
                break
            missing.append(folder)
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            if not os.path.isdir(self.root):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.root)
            if os.path.exists(folder):
                raise StoreRejected("store an object", on=key, cause=f"a part of its path is a file: {folder}")
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            # Also where another process made it just now: what we store in it must not be lost with it.
            durable.sync_folder(os.path.dirname(path))

    def _in_folder(self, path: str, act: Callable[[int, str], _T], *, sync: bool = True) -> _T:
        """Call `act` with a descriptor of the folder of `path`, locked against other writers, and the name in it; sync it."""
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._locked(descriptor):
                result = act(descriptor, os.path.basename(path))
            if sync:
                durable.sync_folder_descriptor(descriptor)
            return result
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, folder: int) -> Iterator[None]:
        """Hold the lock of a folder: on the folder itself, so that no lock file stays behind and all users share it."""
        lock, own = folder, -1
        try:
            if not _try_lock(lock):
                _wait_for_lock(lock)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EISDIR, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS):
                raise
            # NFS locks only what is open for writing, which a folder never is: a file of ours serves there, for the whole store.
            own = os.open(os.path.join(self.temp_folder(), "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            lock = own
            try:
                _wait_for_lock(lock)
            except BaseException:
                os.close(own)
                raise
        try:
            yield
        finally:
            if own >= 0:
                os.close(own)
            else:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _check_condition(self, folder: int, name: str, key: str, if_match: str | None, if_absent: bool) -> None:
        if if_match is None and not if_absent:
            return
        try:
            found = os.stat(name, dir_fd=folder)
        except FileNotFoundError:
            found = None
        if if_absent and found is not None:
            raise StorePreconditionFailed("store an object", on=key, cause="there is one already")
        if if_match is not None and (found is None or etag_of(found) != if_match):
            raise StorePreconditionFailed("store an object", on=key, cause="the object there is not the expected one")

    def _sweep(self, folder: str) -> None:
        """Remove what processes that died long ago left in the folder for temporary files."""
        now_s = time.time()
        with os.scandir(folder) as entries:
            for entry in entries:
                limit_s = STALE_UPLOAD_S if entry.name.startswith(UPLOAD_MARK) else STALE_FILE_S
                with contextlib.suppress(FileNotFoundError):
                    if entry.name != "lock" and now_s - entry.stat(follow_symlinks=False).st_mtime > limit_s:
                        os.unlink(entry.path)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(descriptor: int) -> None:
    # Others hold it for microseconds; one that was stopped in between must not hold us for ever.
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    wait_s = 0.0005
    while not _try_lock(descriptor):
        if time.monotonic() > deadline_s:
            cause = f"another process has held the lock for {LOCK_TIMEOUT_S:.0f} s"
            raise StoreUnavailable("lock a folder of the store", cause=cause)
        time.sleep(wait_s)
        wait_s = min(0.02, wait_s * 2)
