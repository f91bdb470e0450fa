"""The sidecar: the process that hosts a worker beside the task.

Started as ``python -m ckpt_async.sidecar SPOOL DESCRIPTOR TASK_PID [GUARD_DESCRIPTOR]``, by `ckpt_async.worker.sidecar_client`. The
descriptors are ends of socket pairs: through the first, commands come in and events go out; through the second, the task has linked
files guarded. With 0 as TASK_PID it has no task, and makes itself independent of the process that has started it; that one sees
the process that it has started end at once. It has no credentials on its command line, in its environment nothing that the task has
not, and it writes to its own log alone.

When the task is gone (the socket is closed, or the process has ended) it goes on until the spool is empty or its deadline
has come, removes an empty spool, and ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from ckpt_async.spool.spool import OWN_A_SPOOL, Spool
from ckpt_async.words.errors import CheckpointError
from ckpt_async.worker.guard import Guard
from ckpt_async.worker.priority import yield_the_disk

__all__ = ["main", "run"]

#: Below the task, so that training gets the processor first.
NICENESS = 5


def main(arguments: list[str]) -> int:
    """Run a sidecar; returns its exit status."""
    folder, descriptor, task_pid = arguments[0], int(arguments[1]), int(arguments[2])
    # Before there is any thread. Nobody waits for what is nobody's child; a zombie would stay for as long as the starter lives.
    if not task_pid and os.fork():
        os._exit(0)
    # Ctrl-C is for the task, which tells what is to be done by what it writes into the spool, or by its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spool = Spool(folder)
    guard = None
    try:
        # Before the guard: two guards of one spool would only get into each other's way.
        spool.worker_lock.acquire(attempted=OWN_A_SPOOL)
        if len(arguments) > 3:
            # Before there is any other thread, and before what takes long to import: until then writers wait for what a dead
            # sidecar has left, or nobody guards it.
            guard = _start_guard(folder, int(arguments[3]))
        # On Linux that is a matter of each thread: the guard, for which a writer may be waiting, keeps its priority.
        os.nice(NICENESS)
        yield_the_disk()
        import anyio

        from ckpt_async.hosting import Host

        anyio.run(Host(spool, socket.socket(fileno=descriptor), task_pid, guard).run)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if guard is not None:
            guard.close()
    return 0


def _start_guard(folder: str, descriptor: int) -> Guard:
    from ckpt_async.worker.break_signals import block_break_signals

    block_break_signals()
    guard = Guard(folder, socket.socket(fileno=descriptor))
    guard.start()
    return guard


def run(arguments: list[str]) -> NoReturn:
    """Run a sidecar, and end the process at once.

    All that is to be closed has been closed by `main`. What is left are threads that were given up, such as one that asks a
    service for credentials: an interpreter that ends in the common way waits for each of them, long after the deadline.
    """
    status = 1
    try:
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    run(sys.argv[1:])
