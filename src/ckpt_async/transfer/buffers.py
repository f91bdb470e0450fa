"""Memory for parts that is used again: pages that are new for each part cost more time than reading into them."""

from __future__ import annotations

import contextlib
import mmap

__all__ = ["PartBuffers"]

MIB = 1024 * 1024


def _new_memory(size_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A fifth of the time for the first read into it. A kernel may be built without.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class PartBuffers:
    """Lends memory for parts; whoever borrows bounds how much is lent at a time. For one event loop."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def lend(self, size_bytes: int) -> memoryview:
        """Return room for so many bytes, or for some more. Give it back, or forget it where somebody may still look at it."""
        if size_bytes < MIB:
            # Python's allocator keeps these by itself.
            return memoryview(bytearray(size_bytes))
        for index, view in enumerate(self._free):
            if size_bytes <= len(view) <= 2 * size_bytes:
                return self._free.pop(index)
        # What lies here is of other sizes: kept beside new memory, it would be more than what is lent.
        self._free.clear()
        return memoryview(_new_memory(-(-size_bytes // MIB) * MIB))

    def give_back(self, view: memoryview) -> None:
        """Take memory back that nobody looks at any more."""
        if len(view) >= MIB:
            self._free.append(view)
