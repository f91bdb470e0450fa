"""The guard of linked files: a thread of its own in the sidecar, which owns all leases and answers the task itself.

Not the asyncio loop: a loop that is busy must neither delay a writer that waits for the end of a lease nor a ``save()``
that waits for an answer. It starts before anything else in its process, so it keeps the priority that the rest gives up.

A request is one line of JSON, and so is the answer: ``{"guard": ENTRY, "links": {NAME: the fields of FileState}}`` is answered by
``{"files": {NAME: the fields of Guarded, or "why not"}}``, and ``{"holds": ENTRY}`` by ``{"holds": true or false}``.
``{"written": [PATH, ...]}`` is answered by ``{"written": [those that a program has open for writing]}``, or by null where that
can't be told. The guard's first line is ``{"ready": ""}``, or why it can't guard anything.

The task's first line is ``{"inherit": [[DESCRIPTOR, LABEL], ...]}``: what this process was given of the deposits (see
`ckpt_async.worker.deposits`) from the task's earlier guards. New ones are passed with a line of the guard's, which has
``"deposits": [LABEL, ...]``, among other things or alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import queue
import re
import select
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ckpt_async.disk.lease import Lease
from ckpt_async.disk.linking import FileState, Guarded
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import CheckpointError
from ckpt_async.worker.break_signals import BreakSignals
from ckpt_async.worker.deposits import DESCRIPTORS_IN_A_DEPOSIT, deposit, deposits_allowed, look_into, raise_descriptor_limit
from ckpt_async.worker.guarded import GuardedLinks
from ckpt_async.worker.rescue import CopyJob, copy_aside, log
from ckpt_async.worker.writers import being_written

__all__ = ["Guard"]

#: Descriptors for everything else that a sidecar does.
OTHER_DESCRIPTORS = 256

#: Copies at a time.
COPIES_AT_ONCE = 4

#: Entries that have left the spool are let go of no later than this, in seconds; also how late a lost signal would be noticed.
SWEEP_EVERY_S = 1.0

#: How long an ending guard takes at most for copies of what is left, in seconds.
SETTLE_TIMEOUT_S = 120.0

_ENTRY = re.compile(r"[0-9]{10,20}")
_NAME = re.compile(r"f[0-9]{6,12}")
_LABEL = re.compile(r"(?:([0-9]{4,24})/)?([0-9]{10,20})")


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
        allowed = deposits_allowed()  # by the limit that this process has of its task
        self._links = GuardedLinks(raise_descriptor_limit() - OTHER_DESCRIPTORS, self._start_copy, max_links=allowed)
        self._buffer = b""
        self._after_copies: list[threading.Event] = []
        self._ending = False
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="ckpt-async-guard", daemon=True)

    # For other threads

    def start(self) -> None:
        """Start the thread, which first of all guards what lies in the spool already."""
        self._thread.start()

    def adopt(self, folder: str, *, owned: bool) -> None:
        """Guard what lies in a spool; returns when that is done. What no lease could be had for is copied by then.

        Parameters
        ----------
        folder : str
            This task's spool, or one beside it.
        owned : bool
            Whether this process has its worker lock: then copies that a killed guard has not finished are removed.
        """
        self._have_done(lambda: self._adopt(Spool(folder), owned=owned), with_copies=True)

    def sweep(self) -> None:
        """Let go of what has left the spools; returns when that is done."""
        self._have_done(self._links.held.sweep)

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
        self._inherit()
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
                self._links.held.sweep()
            if connected and self._connection.fileno() in ready and not self._take_requests():
                poll.unregister(self._connection)
                connected = False
        self._links.held.close()
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

    def _inherit(self) -> None:
        """Take over what the task has of its earlier guards' leases: writers may be waiting since those were killed."""
        deposits = []
        spools = {"": self._spool}
        for number, label in self._what_is_inherited():
            with socket.socket(fileno=number) as keeping:
                descriptors = look_into(keeping)
            found = _LABEL.fullmatch(label)
            if self._refusal or found is None:
                for descriptor in descriptors:
                    Lease(descriptor, os.fstat(descriptor)).release()
                continue
            name = found[1] or ""
            if name not in spools:
                spools[name] = Spool(os.path.join(os.path.dirname(self._spool.folder), name))
            deposits.append((spools[name], found[2], descriptors))
        for spool in {spool for spool, _, _ in deposits}:
            with contextlib.suppress(OSError, CheckpointError):  # a spool that is gone
                spool.obeying(spool.header())
        self._links.inherit(deposits)

    def _what_is_inherited(self) -> list[tuple[int, str]]:
        while b"\n" not in self._buffer:
            try:
                data = self._connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                return []  # There is no task any more, whose deposits are gone with it.
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return [(int(number), str(label)) for number, label in json.loads(line)["inherit"]]

    def _adopt(self, spool: Spool, *, owned: bool) -> None:
        if self._refusal:
            return
        try:
            spool.obeying(spool.header())
            self._links.adopt(spool, owned=owned)
        except (OSError, CheckpointError):
            # What is wrong there is for the uploader to say, which looks at the same files; it also sees what was written to.
            log(traceback.format_exc())
        self._deposit_new()

    def _deposit_new(self) -> None:
        """Give the task its share of what was adopted. Without one there is nobody to outlive this process."""
        made: list[tuple[Spool, str, socket.socket]] = []
        try:
            for spool, entry, descriptors in self._links.held.not_deposited():
                try:
                    made += [(spool, entry, keeping) for keeping in self._deposits(descriptors)]
                except OSError as error:
                    self._copy_instead([(spool, entry)], error)
            # In few lines, which nobody may read for long.
            for start in range(0, len(made), DESCRIPTORS_IN_A_DEPOSIT):
                some = made[start : start + DESCRIPTORS_IN_A_DEPOSIT]
                try:
                    self._answer({"deposits": [self._label(*one[:2]) for one in some]}, [one[2] for one in some])
                except OSError as error:
                    self._copy_instead([one[:2] for one in some], error)
        finally:
            for _, _, keeping in made:
                keeping.close()

    def _copy_instead(self, entries: Sequence[tuple[Spool, str]], error: OSError) -> None:
        log(f"{sorted(entry for _, entry in entries)} are copied, for their leases can't be deposited: {error}")
        for spool, entry in entries:
            self._links.copy_all(spool, entry)

    def _deposits(self, descriptors: Sequence[int]) -> list[socket.socket]:
        made: list[socket.socket] = []
        try:
            for start in range(0, len(descriptors), DESCRIPTORS_IN_A_DEPOSIT):
                made.append(deposit(descriptors[start : start + DESCRIPTORS_IN_A_DEPOSIT]))
        except BaseException:
            for keeping in made:
                keeping.close()
            raise
        return made

    def _label(self, spool: Spool, entry: str) -> str:
        return entry if spool.folder == self._spool.folder else f"{os.path.basename(spool.folder)}/{entry}"

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
        return all(self._reply(line) for line in lines)

    def _reply(self, line: bytes) -> bool:
        request = json.loads(line)
        if "written" in request:
            return self._answer({"written": None if self._refusal else being_written(list(map(str, request["written"])))})
        entry = str(request.get("guard", request.get("holds")))
        links = {str(name): FileState(*state) for name, state in request.get("links", {}).items()}
        if not _ENTRY.fullmatch(entry) or not all(_NAME.fullmatch(name) for name in links):
            return self._answer({"error": "no such request"})
        if "holds" in request:
            return self._answer({"holds": self._links.holds(self._spool, entry)})
        if self._refusal or self._ending:
            return self._answer({"files": dict.fromkeys(links, self._refusal or "the uploader is ending")})
        answers = self._links.take(self._spool, entry, links)
        kept: list[socket.socket] = []
        granted = [name for name, answer in answers.items() if isinstance(answer, Guarded)]
        files = {name: answer if isinstance(answer, str) else dataclasses.astuple(answer) for name, answer in answers.items()}
        try:
            kept = self._deposits(self._links.held.leases(self._spool, entry, granted))
            return self._answer({"files": files, "deposits": [entry] * len(kept)}, kept)
        except OSError as error:
            self._links.held.put_back(self._spool, entry, granted)
            refusal = f"its lease can't be deposited with the task ({error.strerror})"
            return self._answer({"files": files | dict.fromkeys(granted, refusal)})
        finally:
            for keeping in kept:
                keeping.close()

    def _answer(self, answer: dict[str, Any], passed: Sequence[socket.socket] = ()) -> bool:
        """Send a line; returns False where the task is gone. Raises OSError where nothing can be passed, and nothing was sent."""
        line = json.dumps(answer).encode() + b"\n"
        try:
            sent = socket.send_fds(self._connection, [line], [keeping.fileno() for keeping in passed]) if passed else 0
            self._connection.sendall(line[sent:])
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise
            return False
        return True
