"""What the kernel says of leases, and a mapping whose descriptor may be closed."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from types import TracebackType


def leased_inodes(folder: Path) -> list[int]:
    """The inodes of all leases of this machine that are on files in a folder, whoever took them."""
    inodes = {path.lstat().st_ino for path in folder.rglob("*") if path.is_file()}
    leased = []
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "LEASE" in fields and "READ" in fields:
            leased.append(int(fields[fields.index("READ") + 2].rpartition(":")[2]))
    return [inode for inode in leased if inode in inodes]


class Mapping:
    """A whole file mapped for writing, as C libraries do it: the descriptor may be closed at once. A context manager."""

    def __init__(self, path: Path, *, keep_descriptor: bool) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._size = path.stat().st_size
        self._descriptor = os.open(path, os.O_RDWR)
        self._address = self._libc.mmap(None, self._size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self._descriptor, 0)
        if not keep_descriptor:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, offset: int, content: bytes) -> None:
        ctypes.memmove(self._address + offset, content, len(content))

    def read(self, offset: int, size_bytes: int) -> bytes:
        return ctypes.string_at(self._address + offset, size_bytes)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._libc.munmap(self._address, self._size)
        if self._descriptor >= 0:
            os.close(self._descriptor)
