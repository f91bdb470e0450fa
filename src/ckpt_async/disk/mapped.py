"""Who has a file mapped for writing: asked on overlayfs alone, where the kernel forgets a mapping once its descriptor is closed.

Seen on Linux 6.18: overlayfs hands the mapping to the file below it, so that a lease on its own file is granted although stores
through the mapping go on. ext4, XFS, Btrfs and tmpfs refuse the lease. What is asked here stays true while a lease is held:
without a descriptor open for writing nobody can make a new mapping of that kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["may_be_mapped", "writable_mappings"]

_PROCESSES = "/proc"

# Other file systems, or no files at all.
_NEVER = (b"/dev/", b"/memfd:", b"/SYSV", b"/anon_hugepage", b"/[aio]", b"/i915")


def writable_mappings() -> frozenset[str]:
    """Return the paths of the files that processes of this user have mapped shared and for writing; as root, any process."""
    found: set[str] = set()
    for name in os.listdir(_PROCESSES):
        if not name.isdecimal():
            continue
        try:
            with open(f"{_PROCESSES}/{name}/maps", "rb") as file:
                found.update(_of_maps(file))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is another user's
    return frozenset(found)


def _of_maps(lines: Iterable[bytes]) -> Iterable[str]:
    for line in lines:
        # 7f00-7f01 rw-s 00000000 00:2d 1234    /path
        if b"s " not in line[:64]:
            continue
        fields = line.rstrip(b"\n").split(None, 5)
        if len(fields) == 6 and fields[1][1:2] == b"w" and fields[1][3:4] == b"s":
            path = fields[5]
            if path.startswith(b"/") and not path.startswith(_NEVER):
                yield os.fsdecode(path)


def may_be_mapped(found: os.stat_result, mappings: Iterable[str]) -> bool:
    """Return whether one of the mappings is, or may be, of this file.

    Parameters
    ----------
    found : os.stat_result
        Of the file.
    mappings : iterable of str
        From `writable_mappings`, asked after the lease on the file was granted.
    """
    for path in mappings:
        try:
            other = os.stat(path)
        except OSError:
            return True  # removed or renamed since, or in another mount namespace: it can't be told
        if (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino):
            return True
    return False
