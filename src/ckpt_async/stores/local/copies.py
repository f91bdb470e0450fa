"""Copies inside a local store: private ones, which share blocks where the file system can. Blocks, so it runs in threads."""

from __future__ import annotations

import contextlib
import errno
import os

from ckpt_async.disk.clone import send_bytes
from ckpt_async.stores.contract import CopySource, ObjectInfo, Part
from ckpt_async.stores.local.files import LocalFiles
from ckpt_async.stores.local.uploads import LocalUploads
from ckpt_async.words.errors import StorePreconditionFailed

__all__ = ["LocalCopies"]

# Not on these file systems, or not in this sandbox.
_NO_COPY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class LocalCopies:
    """Copies of one store.

    Parameters
    ----------
    files : LocalFiles
        Where whole objects go.
    uploads : LocalUploads
        Where parts go.
    """

    def __init__(self, files: LocalFiles, uploads: LocalUploads) -> None:
        self._files = files
        self._uploads = uploads

    def copy(self, key: str, source: CopySource) -> ObjectInfo:
        """Make a file of its own with the content of another."""
        self._files.path(key)
        with self._files.opened("copy an object", source.key, source.etag) as (reading, _):
            descriptor, temp_path = self._files.new_file()
            try:
                _copy_range(reading, source, descriptor, 0)
                return self._files.publish(descriptor, temp_path, key)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):  # The failure came after the rename.
                    os.unlink(temp_path)
                raise
            finally:
                os.close(descriptor)

    def copy_part(self, key: str, upload_id: str, number: int, offset: int, source: CopySource) -> Part:
        """Copy a range to the place of a part."""
        self._files.path(key)
        with self._files.opened("copy a part", source.key, source.etag) as (reading, _):
            return self._uploads.write_part(
                key,
                upload_id,
                number,
                offset,
                source.size_bytes,
                source.crc32,
                lambda data: _copy_range(reading, source, data, offset),
            )


def _copy_range(reading: int, source: CopySource, writing: int, offset: int) -> None:
    copied = _share_range(reading, source, writing, offset)
    copied += send_bytes(reading, source.offset + copied, writing, offset + copied, source.size_bytes - copied)
    if copied < source.size_bytes:
        cause = f"it ends {source.size_bytes - copied} bytes early"
        raise StorePreconditionFailed("copy an object", on=source.key, cause=cause)


def _share_range(reading: int, source: CopySource, writing: int, offset: int) -> int:
    """Copy by the system call that shares blocks where it can; return how many bytes that brought."""
    copied = 0
    try:
        while copied < source.size_bytes and hasattr(os, "copy_file_range"):
            left = source.size_bytes - copied
            count = os.copy_file_range(reading, writing, left, source.offset + copied, offset + copied)
            if not count:
                break
            copied += count
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
    return copied
