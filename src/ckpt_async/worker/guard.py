"""The guard of linked files: a thread of its own in the sidecar, which owns all leases and answers the task itself.

Not the asyncio loop: a loop that is busy must neither delay a writer that waits for the end of a lease nor a ``save()``
that waits for an answer. It starts before anything else in its process, so it keeps the priority that the rest gives up.

A request is one line of JSON, and so is the answer: ``{"guard": ENTRY, "names": [...]}`` is answered by
``{"files": {NAME: [inode, size, mode, mtime_ns] or "why not"}}``, and ``{"holds": ENTRY}`` by ``{"holds": true or false}``. The
guard's first line is ``{"ready": ""}``, or why it can't guard anything.
"""

from __future__ import annotations

import json
import os
import queue
import re
import resource
import select
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ckpt_async.disk.linking import Guarded
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import CheckpointError
from ckpt_async.worker.break_signals import BreakSignals
from ckpt_async.worker.guarded import GuardedLinks
from ckpt_async.worker.rescue import CopyJob, copy_aside, log

__all__ = ["Guard"]

#: Descriptors for everything else that a sidecar does.
OTHER_DESCRIPTORS = 256

#: More are never asked for; the kernel's own tables have to hold them too.
MAX_DESCRIPTORS = 65536

#: Copies at a time.
COPIES_AT_ONCE = 4

#: Entries that have left the spool are let go of no later than this, in seconds; also how late a lost signal would be noticed.
SWEEP_EVERY_S = 1.0

#: How long an ending guard takes at most for copies of what is left, in seconds.
SETTLE_TIMEOUT_S = 120.0

_ENTRY = re.compile(r"[0-9]{10,20}")
_NAME = re.compile(r"f[0-9]{6,12}")


class Guard:
    """Owns the guard's thread. `block_break_signals` must have been called before any thread was started.

    Parameters
    ----------
    folder : str
        The spool of the task that asks.
    connection : socket.socket
        To the task; closed at the end.
    """

    def __init__(self, folder: str, connection: socket.socket) -> None:
        self._spool = Spool(folder)
        self._connection = connection
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._pool = ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="ckpt-async-rescue")
        self._links = GuardedLinks(_raise_descriptor_limit() - OTHER_DESCRIPTORS, self._start_copy)
        self._buffer = b""
        self._after_copies: list[threading.Event] = []
        self._ending = False
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="ckpt-async-guard", daemon=True)

    # For other threads

    def start(self) -> None:
        """Start the thread, which first of all guards what lies in the spool already."""
        self._thread.start()

    def adopt(self, folder: str) -> None:
        """Guard what lies in a spool whose worker lock this process has; returns when that is done.

        What no lease could be had for is copied by then.
        """
        self._have_done(lambda: self._adopt(Spool(folder), owned=True), with_copies=True)

    def sweep(self) -> None:
        """Let go of what has left the spools; returns when that is done."""
        self._have_done(self._links.sweep)

    def _have_done(self, act: Callable[[], None], *, with_copies: bool = False) -> None:
        done = threading.Event()

        def act_and_tell() -> None:
            act()
            if with_copies and self._links.busy:
                self._after_copies.append(done)
            else:
                done.set()

        self._post(act_and_tell)
        done.wait()

    def close(self) -> None:
        """End the thread. What is left in the spool and could still be written to by others is copied first."""
        self._post(self._end)
        self._thread.join(SETTLE_TIMEOUT_S)

    def _post(self, act: Callable[[], None]) -> None:
        self._inbox.put(act)
        try:
            os.write(self._wake_writer, b"\0")
        except BlockingIOError:
            pass  # The pipe is full of earlier calls, so the thread will look.

    # The thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            # Without this thread each writer of a leased file would stand still for as long as the kernel lets it.
            log(traceback.format_exc())
            os._exit(70)

    def _serve(self) -> None:
        try:
            signals = BreakSignals()
        except OSError as error:
            self._refusal = f"the uploader can't be told of writers ({error})"
            signals = None
        if signals is not None:
            self._adopt(self._spool, owned=False)
        self._answer({"ready": self._refusal})
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        if signals is not None:
            poll.register(signals.descriptor, select.POLLIN)
        connected = True
        while not (self._ending and not self._links.busy):
            ready = {descriptor for descriptor, _ in poll.poll(SWEEP_EVERY_S * 1000 if self._links.count else None)}
            if signals is not None:
                # Nothing is ready: it is time to look at everything.
                self._links.broken(signals.read() if ready else None)
            if self._wake_reader in ready or not ready:
                self._take_calls()
            if not ready:
                self._links.sweep()
            if connected and self._connection.fileno() in ready and not self._take_requests():
                poll.unregister(self._connection)
                connected = False
        self._links.close()
        self._pool.shutdown()
        self._connection.close()
        if signals is not None:
            signals.close()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.close(descriptor)

    def _take_calls(self) -> None:
        try:
            os.read(self._wake_reader, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                act = self._inbox.get_nowait()
            except queue.Empty:
                return
            act()

    def _adopt(self, spool: Spool, *, owned: bool) -> None:
        if self._refusal:
            return
        try:
            spool.obeying(spool.header())
            self._links.adopt(spool, owned=owned)
        except (OSError, CheckpointError):
            # What is wrong there is for the uploader to say, which looks at the same files; it also sees what was written to.
            log(traceback.format_exc())

    def _end(self) -> None:
        self._ending = True
        self._links.settle()

    def _start_copy(self, job: CopyJob) -> None:
        def finished(future: Future[str]) -> None:
            self._post(lambda: self._copied(job, future.result()))

        self._pool.submit(copy_aside, job).add_done_callback(finished)

    def _copied(self, job: CopyJob, failure: str) -> None:
        self._links.copied(job, failure)
        if not self._links.busy:
            waiting, self._after_copies = self._after_copies, []
            for done in waiting:
                done.set()

    # The task

    def _take_requests(self) -> bool:
        """Answer what has come; returns False where the task is gone."""
        try:
            data = self._connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return all(self._answer(self._reply(line)) for line in lines)

    def _reply(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        entry = str(request.get("guard", request.get("holds")))
        names = [str(name) for name in request.get("names", ())]
        if not _ENTRY.fullmatch(entry) or not all(_NAME.fullmatch(name) for name in names):
            return {"error": "no such request"}
        if "holds" in request:
            return {"holds": self._links.holds(self._spool, entry)}
        if self._refusal or self._ending:
            return {"files": dict.fromkeys(names, self._refusal or "the uploader is ending")}
        answers = self._links.take(self._spool, entry, names)
        return {
            "files": {
                name: [answer.inode, answer.size_bytes, answer.mode, answer.mtime_ns] if isinstance(answer, Guarded) else answer
                for name, answer in answers.items()
            }
        }

    def _answer(self, answer: dict[str, Any]) -> bool:
        try:
            self._connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return False
        return True


def _raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may allow itself; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, MAX_DESCRIPTORS)
