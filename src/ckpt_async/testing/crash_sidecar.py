"""Sidecars whose steps are counted: real processes with the real program in them, forked from one that has imported it already.

An interpreter that starts and imports takes longer than all the rest of a run. `Nursery` belongs to the process that forks, and
`start_sidecar` stands in the place of `subprocess.Popen` in the task.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Nursery", "Sidecar", "start_sidecar"]

#: Descriptors on their way to a sidecar are put above those that it will have.
_ABOVE = 200

#: What the kernel passes at most with one message.
_MAX_DESCRIPTORS = 253

#: How long a task waits for its sidecar to be there.
_ANSWER_TIMEOUT_S = 30.0


class Nursery:
    """Forks sidecars for one task. For a process without threads.

    Parameters
    ----------
    act : callable
        What the forked process does, from the request's text and the sidecar's arguments; returns its exit status.

    Attributes
    ----------
    pids : list of int
        Of all that were started. They are children of this process, which must wait for them.
    """

    def __init__(self, act: Callable[[str, list[str]], int]) -> None:
        self._act = act
        self._socket, self._task_socket = socket.socketpair()
        self.pids: list[int] = []

    def for_task(self) -> socket.socket:
        """Return the task's end, in the forked task; this side's is closed there."""
        self._socket.close()
        return self._task_socket

    def for_driver(self) -> socket.socket:
        """Return the end on which requests come, for `serve`; the task's is closed here, so that its death is seen."""
        self._task_socket.close()
        return self._socket

    def close(self) -> None:
        """Take no more requests."""
        self._socket.close()

    def serve(self) -> bool:
        """Answer a request that has come; returns False where the task is gone."""
        text, descriptors = _receive(self._socket)
        if not text:
            return False
        request = json.loads(text)
        living, dying = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(self._be_sidecar(request, descriptors))
        self.pids.append(pid)
        for descriptor in (dying, *descriptors):
            os.close(descriptor)
        try:
            _send(self._socket, {"pid": pid}, [living])
        except OSError:
            return False  # The task was killed meanwhile; its sidecar sees that.
        finally:
            os.close(living)
        return True

    def _be_sidecar(self, request: dict[str, Any], descriptors: Sequence[int]) -> int:
        try:
            # As subprocess does it: a session of its own, and of the task's descriptors what is passed, by its number.
            os.setsid()
            os.chdir("/")
            null = os.open(os.devnull, os.O_RDWR)
            above = [_moved_up(descriptor) for descriptor in (null, *descriptors)]
            for source, target in zip([above[0], *above], [0, 1, 2, *request["passed"]], strict=True):
                os.dup2(source, target)
            return self._act(request["text"], request["arguments"])
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            sys.stderr.flush()


def _moved_up(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE)


class Sidecar:
    """What the engine uses of a `subprocess.Popen`, for a process whose parent is another one.

    Parameters
    ----------
    pid : int
        Of the process.
    living : int
        A descriptor that can be read once the process has ended.
    """

    def __init__(self, pid: int, living: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._living = living

    def poll(self) -> int | None:
        """Return something other than None where it has ended."""
        if self.returncode is None and select.select([self._living], [], [], 0)[0]:
            self.returncode = 0
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises TimeoutExpired."""
        if self.returncode is None and not select.select([self._living], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("sidecar", timeout or 0.0)
        self.returncode = 0
        return 0

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)


def start_sidecar(asking: socket.socket, text: str, command: Sequence[str], *, stderr: int, pass_fds: Sequence[int]) -> Sidecar:
    """Have a sidecar started, in the task.

    Parameters
    ----------
    asking : socket.socket
        See `Nursery.for_task`.
    text : str
        Handed to the nursery's `act`.
    command, stderr, pass_fds
        As `subprocess.Popen` is given them.
    """
    arguments = command[command.index("ckpt_async.sidecar") + 1 :]
    asking.settimeout(_ANSWER_TIMEOUT_S)
    _send(asking, {"text": text, "arguments": arguments, "passed": list(pass_fds)}, [stderr, *pass_fds])
    answer, (living,) = _receive(asking)
    return Sidecar(json.loads(answer)["pid"], living)


def _send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int]) -> None:
    data = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(connection, [data], descriptors)
    connection.sendall(data[sent:])


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message without its end of line, and the descriptors that came with it; empty where the other side is gone."""
    data, descriptors = b"", list[int]()
    while not data.endswith(b"\n"):
        try:
            more, found, _, _ = socket.recv_fds(connection, 65536, _MAX_DESCRIPTORS)
        except ConnectionError:
            more, found = b"", []
        descriptors.extend(found)
        if not more:
            for descriptor in descriptors:
                os.close(descriptor)
            return b"", []
        data += more
    return data[:-1], descriptors
