"""The signals of broken leases, as something that can be waited for together with sockets (Linux's signalfd)."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from ckpt_async.disk.lease import BREAK_SIGNAL

__all__ = ["BreakSignals", "block_break_signals"]

_RECORD_BYTES = 128  # struct signalfd_siginfo
_SIGNAL_SET_BYTES = 128  # sigset_t of glibc and musl; the kernel reads the first eight


def _signals() -> set[int]:
    # SIGIO comes in the place of the other once too many are queued; unblocked it would end the process.
    return {BREAK_SIGNAL, signal.SIGIO}


def block_break_signals() -> None:
    """Block them in this thread and in those that it starts from now on. To be called before there is any other thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _signals())


class BreakSignals:
    """Owns a descriptor that becomes readable when a lease is broken.

    Raises
    ------
    OSError
        The operating system, or a sandbox, has no signalfd.
    """

    def __init__(self) -> None:
        mask = bytearray(_SIGNAL_SET_BYTES)
        for number in _signals():
            # A set of bits in machine words, whose bytes are in order on every machine with the small end first.
            word, bit = divmod(number - 1, 64)
            mask[word * 8 : word * 8 + 8] = struct.pack("=Q", struct.unpack_from("=Q", mask, word * 8)[0] | 1 << bit)
        try:
            call = ctypes.CDLL(None, use_errno=True).signalfd
        except AttributeError as error:
            raise OSError(f"this system's C library has no signalfd: {error}") from error
        self.descriptor = int(call(-1, bytes(mask), os.O_CLOEXEC | os.O_NONBLOCK))
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def read(self) -> set[int] | None:
        """Return the descriptors whose leases were broken; None where some were lost, and all leases have to be looked at."""
        found: set[int] = set()
        complete = True
        while True:
            try:
                data = os.read(self.descriptor, 64 * _RECORD_BYTES)
            except BlockingIOError:
                return found if complete else None
            for start in range(0, len(data), _RECORD_BYTES):
                number = struct.unpack_from("=I", data, start)[0]
                if number == BREAK_SIGNAL:
                    found.add(struct.unpack_from("=i", data, start + 20)[0])  # ssi_fd
                else:
                    complete = False

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
