"""The sidecar: the process that hosts a worker beside the task.

Started as ``python -m ckpt_async.sidecar SPOOL DESCRIPTOR TASK_PID``, by `ckpt_async.worker.sidecar_client`. The descriptor is
one end of a
socket pair: commands come in, events go out. It has no credentials on its command line, in its environment nothing that the
task has not, and it writes to its own log alone.

When the task is gone (the socket is closed, or the process has ended) it goes on until the spool is empty or its deadline
has come, removes an empty spool, and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import anyio
import anyio.to_thread

from ckpt_async.assembly import make_store
from ckpt_async.spool.neighbours import remove_spool
from ckpt_async.spool.spool import Spool
from ckpt_async.transfer.groups import plain_task_group
from ckpt_async.words.errors import CheckpointError
from ckpt_async.words.events import Close, Event, decode_command, encode
from ckpt_async.worker.runtime import WorkerRuntime

__all__ = ["main"]

#: Below the task, so that training gets the processor first.
NICENESS = 5


class _Sidecar:
    """Connects a worker's runtime with the task."""

    def __init__(self, folder: str, connection: socket.socket, task_pid: int) -> None:
        self._spool = Spool(folder)
        self._connection = connection
        self._task_pid = task_pid
        self._writer: asyncio.StreamWriter | None = None
        self._runtime = WorkerRuntime(folder, make_store, self._emit)
        self._linger_s = 0.0
        self._orphaned = False

    def _emit(self, event: Event) -> None:
        if self._writer is not None and not self._orphaned:
            self._writer.write(encode(event))

    def _orphan(self) -> None:
        """The task is gone: finish what it saved, within the time that it has set."""
        if not self._orphaned:
            self._orphaned = True
            self._runtime.handle(Close(self._linger_s))

    async def run(self) -> None:
        self._linger_s = (await anyio.to_thread.run_sync(self._spool.header)).settings.flush_timeout_s
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        async with plain_task_group() as group:
            group.start_soon(self._listen, reader)
            group.start_soon(self._watch_task)
            await self._runtime.run()
            group.cancel_scope.cancel()
        self._writer.close()
        await anyio.to_thread.run_sync(self._clean_up)

    def _clean_up(self) -> None:
        """Remove an empty spool. Where the task lives that is its business; its lock tells, for the last upload may have ended
        before the end of the task was seen.
        """
        try:
            if self._orphaned or self._spool.task_lock.try_acquire():
                remove_spool(self._spool)
        except FileNotFoundError:
            pass  # The next attempt was faster.

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                if line.endswith(b"\n"):
                    self._runtime.handle(decode_command(line))
        except ConnectionError:
            pass  # A task that was killed resets the connection; that is what "gone" looks like.
        self._orphan()

    async def _watch_task(self) -> None:
        """See the task's end even where a child that it forked keeps the socket open."""
        if not hasattr(os, "pidfd_open"):
            return
        try:
            descriptor = os.pidfd_open(self._task_pid)
        except OSError:
            if os.getppid() != self._task_pid:
                self._orphan()
            return
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
            self._orphan()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Run a sidecar; returns its exit status."""
    folder, descriptor, task_pid = arguments[0], int(arguments[1]), int(arguments[2])
    # Ctrl-C is for the task, which tells what is to be done by what it writes into the spool, or by its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    connection = socket.socket(fileno=descriptor)
    try:
        anyio.run(_Sidecar(folder, connection, task_pid).run)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
