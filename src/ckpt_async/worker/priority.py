"""Letting others go first at the disk."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["yield_the_disk"]

#: The number of the system call by machine: the C library has no function for it.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_WHO_PROCESS = 1
_CLASS_BEST_EFFORT = 2
_CLASS_SHIFT = 13
#: Of 0 to 7, where 4 is usual. Not the class "idle": beside a training that reads all the time its uploads would stand still.
_LOWEST_LEVEL = 7


def yield_the_disk() -> bool:
    """Give this thread, and those that it starts, the lowest usual priority at the disk; return whether that is known here.

    Linux only. Whether it has an effect is up to the scheduler of the disk.
    """
    if sys.platform != "linux" or (number := _IOPRIO_SET.get(os.uname().machine)) is None:
        return False
    value = (_CLASS_BEST_EFFORT << _CLASS_SHIFT) | _LOWEST_LEVEL
    return bool(ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, 0, value) == 0)
