"""The task's side of the guard: asks it to guard links, and takes none for guarded that it has not answered for.

What is said is in `ckpt_async.worker.guard`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckpt_async.worker.deposits import DESCRIPTORS_IN_A_DEPOSIT, Deposits, receive

if TYPE_CHECKING:
    from ckpt_async.disk.linking import FileState, Guarded

__all__ = ["GuardClient"]

#: A guard that does not answer for so long is none, from then on: its late answers would be taken for those of later questions.
ANSWER_TIMEOUT_S = 2.0

#: Names in one request, so that a guard can see to a writer in between, and has one deposit to make.
NAMES_AT_ONCE = DESCRIPTORS_IN_A_DEPOSIT

_NOT_RUNNING = "the uploader is not running at the moment"


class GuardClient:
    """See `ckpt_async.disk.linking.LinkGuard`. Speaks with one guard; the next sidecar has another.

    Parameters
    ----------
    connection : socket.socket
        Owned by this object.
    deposits : Deposits
        Where those of this guard go.
    """

    def __init__(self, connection: socket.socket, deposits: Deposits) -> None:
        self._connection = connection
        self._deposits = deposits
        #: Descriptors whose line is not complete yet.
        self._arrived: deque[int] = deque()
        self._guard = threading.RLock()  # close() may come from a signal handler in the middle of an exchange
        self._buffer = b""
        self._ready = False
        self._lost = ""

    @classmethod
    def pair(cls, deposits: Deposits) -> tuple[GuardClient, socket.socket]:
        """Return a client, and the other end of its connection, for the guard's process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours, deposits), theirs

    def hand_over(self, lent: Sequence[tuple[int, str]]) -> None:
        """Tell the guard what its process gets of the deposits, before that is started: see `Deposits.lent`."""
        with self._guard:
            self._connection.sendall(json.dumps({"inherit": lent}).encode() + b"\n")

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the guard holds what lay in its spool when it started; returns whether it does."""
        with self._guard:
            return not self._refusal(timeout_s)

    def guard(self, folder: str, links: Mapping[str, FileState], *, patience_s: float) -> Mapping[str, Guarded | str]:
        """Have links guarded."""
        from ckpt_async.disk.linking import Guarded  # whoever asks has it already

        answers: dict[str, Guarded | str] = {}
        with self._guard:
            if refusal := self._refusal(patience_s):
                return dict.fromkeys(links, refusal)
            names = list(links)
            for start in range(0, len(names), NAMES_AT_ONCE):
                some = names[start : start + NAMES_AT_ONCE]
                states = {name: dataclasses.astuple(links[name]) for name in some}
                answer = self._ask({"guard": os.path.basename(folder), "links": states})
                files = answer.get("files", {})
                if answer.get("undelivered"):
                    files = dict.fromkeys(some, "this process can't open any more files")
                for name in some:
                    file = files.get(name, self._lost or "the guard has not answered")
                    answers[name] = file if isinstance(file, str) else Guarded(*file)
        return answers

    def holds(self, folder: str) -> bool:
        """Return whether all that was guarded of an entry is guarded at this moment."""
        with self._guard:
            return self._ask({"holds": os.path.basename(folder)}).get("holds") is True

    def being_written(self, paths: Sequence[str]) -> list[str] | None:
        """Return which of these files some program has open for writing; None where that can't be told."""
        written: list[str] = []
        with self._guard:
            if self._refusal(ANSWER_TIMEOUT_S):
                return None
            for start in range(0, len(paths), NAMES_AT_ONCE):
                found = self._ask({"written": list(paths[start : start + NAMES_AT_ONCE])}).get("written")
                if found is None:
                    return None
                written += found
        return written

    def close(self) -> None:
        """Hang up; an exchange that is under way ends with no answer. May be called twice."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The other side is gone, or it was closed before.
        with self._guard:
            self._lose(_NOT_RUNNING)

    def _refusal(self, patience_s: float) -> str:
        """Wait for the guard's first line; return why it is not of use, or nothing."""
        if not self._ready and not self._lost:
            answer = self._read_answer(patience_s, keep=True)
            if answer is not None:
                self._ready = True
                if refusal := answer.get("ready"):
                    self._lose(str(refusal))
            elif not self._lost:
                return "the uploader is still starting"
        return self._lost

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._lost:
            return {}
        try:
            self._connection.settimeout(ANSWER_TIMEOUT_S)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            return self._read_answer(ANSWER_TIMEOUT_S) or {}
        except OSError:
            self._lose(_NOT_RUNNING)
            return {}
        except BaseException:
            # A signal's handler: the answer would be taken for that of the next question.
            self._lose(_NOT_RUNNING)
            raise

    def _read_answer(self, timeout_s: float, *, keep: bool = False) -> dict[str, Any] | None:
        """Return the next answer; None where none comes in time, which ends the connection unless `keep`. Deposits may come between
        answers too.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._buffer:
                if answer := self._next_line():
                    return answer
            try:
                self._connection.settimeout(max(0.001, deadline_s - time.monotonic()))
                data = self._receive()
            except TimeoutError:
                if not keep:
                    self._lose("the uploader does not answer")
                return None
            except OSError:
                data = b""
            if not data:
                self._lose(_NOT_RUNNING)
                return None
            if self._lost:
                return None  # by a signal's handler, which has seen to what had come
            self._buffer += data

    def _receive(self) -> bytes:
        data, descriptors = receive(self._connection, 1 << 16)
        self._arrived += descriptors
        return data

    def _next_line(self) -> dict[str, Any]:
        """Take a line, and the deposits that came with it; return what else it says."""
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        for label in answer.pop("deposits", ()):
            if not self._arrived:
                # The kernel leaves out what would be more than this process may open.
                return {**answer, "undelivered": True} if answer else {}
            self._deposits.add(label, socket.socket(fileno=self._arrived.popleft()))
        return answer

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = why
            self._take_last_deposits()
            self._connection.close()

    def _take_last_deposits(self) -> None:
        """Take what nobody has read yet: a guard that was killed may have left it."""
        self._connection.settimeout(0)
        try:
            while data := self._receive():
                self._buffer += data
        except OSError:
            pass  # There is no more, or the connection is broken: nothing comes any more in either case.
        while b"\n" in self._buffer:
            self._next_line()
        while self._arrived:
            os.close(self._arrived.popleft())
