"""What an error of the file system means for a store in a folder."""

from __future__ import annotations

import errno
import os
import shutil

from ckpt_async.words.errors import StoreAccessDenied, StoreError, StoreMissing, StoreRejected, StoreUnavailable

__all__ = ["translate_os_error"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# They may pass: a network file system that stalls, a table of the kernel that is full for a moment.
_PASSING = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
)  # fmt: skip
_HINTS = {
    errno.EMFILE: "This process has too many files open.",
    errno.ENFILE: "The machine has too many files open.",
    errno.EROFS: "The file system is mounted read-only.",
    errno.ENAMETOOLONG: "A shorter name helps.",
}


def translate_os_error(error: OSError, attempted: str, on: str, root: str) -> StoreError:
    """Return the store's error for `error`. Looks at the root folder, so it is for a thread, not for the loop."""
    cause = error.strerror or str(error)
    if not os.path.isdir(root) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StoreMissing(attempted, on=on, cause=f"there is no folder {root}", hint="Make it, or correct the datastore's root.")
    if error.errno in _FULL:
        return StoreUnavailable(attempted, on=on, cause=f"{cause} ({_free(root)})", hint="Free some space.")
    if error.errno in _DENIED:
        hint = _HINTS.get(error.errno, "Check the owner and the mode of the folder.")
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=hint)
    if error.errno in _PASSING:
        return StoreUnavailable(attempted, on=on, cause=cause, hint=_HINTS.get(error.errno, ""))
    return StoreRejected(attempted, on=on, cause=cause, hint=_HINTS.get(error.errno or 0, ""))


def _free(root: str) -> str:
    try:
        return f"{shutil.disk_usage(root).free} bytes are free"
    except OSError as error:
        return f"the free space is not known: {error.strerror}"
