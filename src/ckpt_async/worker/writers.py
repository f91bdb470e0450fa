"""Whether a file is being written: the kernel grants a read lease only where nobody has it open for writing.

To be asked in a process that no writer belongs to, with the signals of broken leases blocked: a writer that opens the file in the
moment in which the lease is held waits for its end, and may hold Python's lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_async.disk.lease import LEASING_FILE_SYSTEMS, Lease, LeaseRefused, RefusedBecause, file_system_of

__all__ = ["being_written"]


def being_written(paths: Sequence[str]) -> list[str] | None:
    """Return which of these files some program has open for writing; None where leases tell nothing of one of them.

    What is gone, or can't be opened, is not being written as far as is known: whoever takes it learns what is wrong with it.
    """
    written: list[str] = []
    told: dict[int, bool] = {}
    for path in paths:
        try:
            lease = Lease.take(path)
        except OSError:
            continue
        if isinstance(lease, LeaseRefused):
            if lease.because is RefusedBecause.IMPOSSIBLE:
                return None
            written.append(path)
            continue
        try:
            # By device: a look at the mount for each of thousands of files would take longer than all the rest.
            device = lease.found.st_dev
            if device not in told:
                told[device] = file_system_of(lease.descriptor) in LEASING_FILE_SYSTEMS
            known = told[device]
        finally:
            lease.release()
        if not known:
            return None
    return written
