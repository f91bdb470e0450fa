"""The copy that is made when somebody wants to write to a linked file: in a thread of its own, and in time or not at all."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from ckpt_async.disk import durable
from ckpt_async.disk.clone import create_private, send_bytes, share_blocks

__all__ = ["CopyJob", "copy_aside", "log"]

#: Between two looks, during a copy, at whether it still is in time.
LOOK_EVERY_BYTES = 32 * 1024 * 1024


def log(text: str) -> None:
    """Write a line to the sidecar's log, which lies on a disk that may be full: no reason to let a writer wait."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace") + b"\n")


@dataclass(frozen=True, eq=False)
class CopyJob:
    """A copy to be made of a file that somebody wants to write to: for `copy_aside`, then for
    `ckpt_async.worker.guarded.GuardedLinks.copied`.
    """

    descriptor: int
    found: os.stat_result
    target: str
    sync: bool = False


def copy_aside(job: CopyJob) -> str:
    """Copy a file; return why that failed, or nothing. A copy that was not in time is none."""
    try:
        # Not its parents: a spool that was removed meanwhile must stay so.
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(job.target), 0o700)
        writing = create_private(job.target)
        try:
            if not share_blocks(job.descriptor, writing):
                done = 0
                while done < job.found.st_size and _same(job):
                    left = min(LOOK_EVERY_BYTES, job.found.st_size - done)
                    sent = send_bytes(job.descriptor, done, writing, done, left)
                    if not sent:
                        break
                    done += sent
            complete = os.fstat(writing).st_size == job.found.st_size and _same(job)
            os.utime(writing, ns=(job.found.st_mtime_ns, job.found.st_mtime_ns))
            if job.sync:
                durable.sync_descriptor(writing)
        finally:
            os.close(writing)
    except OSError as error:
        return f"it could not be copied in time ({error.strerror or error})"
    return "" if complete else "the copy was too slow: the kernel holds a writer back no longer than fs.lease-break-time"


def _same(job: CopyJob) -> bool:
    found = os.fstat(job.descriptor)
    return (found.st_size, found.st_mtime_ns) == (job.found.st_size, job.found.st_mtime_ns)
