"""The task's side of the guard: asks it to guard links, and takes none for guarded that it has not answered for."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ckpt_async.disk.linking import Guarded

__all__ = ["GuardClient"]

#: A guard that does not answer for so long is none, from then on: its late answers would be taken for those of later questions.
ANSWER_TIMEOUT_S = 2.0

#: Names in one request, so that a guard can see to a writer in between.
NAMES_AT_ONCE = 256

_NOT_RUNNING = "the uploader is not running at the moment"


class GuardClient:
    """See `ckpt_async.disk.linking.LinkGuard`. Speaks with one guard; the next sidecar has another.

    Parameters
    ----------
    connection : socket.socket
        Owned by this object.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._guard = threading.RLock()  # close() may come from a signal handler in the middle of an exchange
        self._buffer = b""
        self._ready = False
        self._lost = ""

    @classmethod
    def pair(cls) -> tuple[GuardClient, socket.socket]:
        """Return a client, and the other end of its connection, for the guard's process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), theirs

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the guard holds what lay in its spool when it started; returns whether it does."""
        with self._guard:
            return not self._refusal(timeout_s)

    def guard(self, folder: str, names: Sequence[str], *, patience_s: float) -> Mapping[str, Guarded | str]:
        """Have links guarded."""
        answers: dict[str, Guarded | str] = {}
        with self._guard:
            if refusal := self._refusal(patience_s):
                return dict.fromkeys(names, refusal)
            for start in range(0, len(names), NAMES_AT_ONCE):
                some = names[start : start + NAMES_AT_ONCE]
                answer = self._ask({"guard": os.path.basename(folder), "names": list(some)})
                files = answer.get("files", {})
                for name in some:
                    file = files.get(name, self._lost or "the guard has not answered")
                    answers[name] = file if isinstance(file, str) else Guarded(*file)
        return answers

    def holds(self, folder: str) -> bool:
        """Return whether all that was guarded of an entry is guarded at this moment."""
        with self._guard:
            return self._ask({"holds": os.path.basename(folder)}).get("holds") is True

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
            line = self._read_line(patience_s, keep=True)
            if line is not None:
                self._ready = True
                if refusal := json.loads(line).get("ready"):
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
        except OSError:
            self._lose(_NOT_RUNNING)
            return {}
        line = self._read_line(ANSWER_TIMEOUT_S)
        return json.loads(line) if line is not None else {}

    def _read_line(self, timeout_s: float, *, keep: bool = False) -> bytes | None:
        """Return the next line; None where none comes in time, which ends the connection unless `keep`."""
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            try:
                self._connection.settimeout(max(0.001, deadline_s - time.monotonic()))
                data = self._connection.recv(1 << 16)
            except TimeoutError:
                if not keep:
                    self._lose("the uploader does not answer")
                return None
            except OSError:
                data = b""
            if not data:
                self._lose(_NOT_RUNNING)
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _lose(self, why: str) -> None:
        if not self._lost:
            self._lost = why
            self._connection.close()
