"""What a sidecar does beside guarding: the worker's loop, its conversation with the task, and an end when the task is gone."""

from __future__ import annotations

import asyncio
import os
import socket

import anyio
import anyio.to_thread

from ckpt_async.assembly import StoresOfWorker
from ckpt_async.spool.neighbours import remove_spool
from ckpt_async.spool.spool import Spool
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.words.events import Close, Event, decode_command, encode
from ckpt_async.worker.guard import Guard
from ckpt_async.worker.runtime import WorkerRuntime

__all__ = ["Host"]

#: Between two looks at whether the task still lives, where the system can't tell of its end.
TASK_LOOK_EVERY_S = 1.0


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that tells of the end of a process; None where the system has none (macOS, some sandboxes)."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


class Host:
    """Connects a worker's runtime with the task.

    Parameters
    ----------
    spool : Spool
        Whose worker lock this process has.
    connection : socket.socket
        To the task: commands come in, events go out.
    task_pid : int
        Of the task; 0 where there is none.
    guard : Guard or None
        Of linked files; ended by the caller.
    """

    def __init__(self, spool: Spool, connection: socket.socket, task_pid: int, guard: Guard | None) -> None:
        self._spool = spool
        self._connection = connection
        self._task_pid = task_pid
        self._writer: asyncio.StreamWriter | None = None
        self._runtime = WorkerRuntime(spool, StoresOfWorker(), self._emit, guard)
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
        """Run until the task has closed the worker, or is gone and the spool is empty or the deadline has come."""
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
            if not self._spool.worker_lock.try_acquire():
                return  # The next attempt has taken it over.
            if dead := not self._spool.task_lock.is_held():
                # What the task was saving when it was killed.
                self._spool.clean()
            if dead or self._orphaned:
                remove_spool(self._spool)
        except FileNotFoundError:
            pass  # The next attempt was faster.
        finally:
            self._spool.worker_lock.release()

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
        descriptor = _pidfd(self._task_pid)
        if descriptor is None:
            # Polled on purpose: without a descriptor for a process nothing tells of a parent's end, and one look a second is cheap.
            while os.getppid() == self._task_pid:
                await anyio.sleep(TASK_LOOK_EVERY_S)
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
