"""The task's side of a sidecar: starts the process, passes commands on, reads events."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ckpt_async.spool.neighbours import older_attempts, waits_beside
from ckpt_async.words.events import Close, Command, EntryCommitted, Event, decode_event, encode
from ckpt_async.worker.deposits import Deposits
from ckpt_async.worker.guard_client import GuardClient

if TYPE_CHECKING:
    from ckpt_async.disk.linking import LinkGuard

__all__ = ["NOBODY", "SIDECAR_LOG", "SidecarClient", "launch"]

SIDECAR_LOG = "sidecar.log"

#: In place of a task's process id: the sidecar makes itself independent of whoever starts it.
NOBODY = 0

#: A sidecar that reads no commands for so long is taken for dead.
SEND_TIMEOUT_S = 10.0

#: How long a sidecar that has closed its socket may take to end.
REAP_TIMEOUT_S = 5.0

#: The length of the log's end that an error quotes.
LAST_WORDS_BYTES = 2000


class SidecarClient:
    """See `ckpt_async.worker.handle.WorkerHandle`. The process is in a session of its own, so that no signal for the task's
    group meets it.

    Parameters
    ----------
    folder : str
        The spool.
    on_event : callable
        Takes events, in the thread that reads them.
    on_death : callable
        Called where the process ends without having been closed.
    """

    def __init__(self, folder: str, on_event: Callable[[Event], None], on_death: Callable[[], None]) -> None:
        self._folder = folder
        self._on_event = on_event
        self._on_death = on_death
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._link_guard: GuardClient | None = None
        self._deposits = Deposits()
        self._guard = threading.Lock()
        self._closing = False

    def start(self) -> None:
        """Start the process; it takes its first entry some tenths of a second later, and nobody waits for that."""
        self._release()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.settimeout(SEND_TIMEOUT_S)
        guarding = GuardClient.pair(self._deposits) if sys.platform == "linux" else None
        try:
            with self._deposits.lent() as lent:
                if guarding is not None:
                    guarding[0].hand_over(lent)
                passed = [descriptor for descriptor, _ in lent]
                self._process = launch(self._folder, theirs, guarding[1] if guarding is not None else None, os.getpid(), passed)
        except BaseException:
            ours.close()
            if guarding is not None:
                guarding[0].close()
            raise
        finally:
            theirs.close()
            if guarding is not None:
                guarding[1].close()
        self._socket = ours
        self._link_guard = guarding[0] if guarding is not None else None
        self._reader = threading.Thread(target=self._read, args=(ours,), name="ckpt-async-events", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def link_guard(self) -> LinkGuard | None:
        """The guard in the process that was started last."""
        return self._link_guard

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid if self._process is not None else None

    def _read(self, ours: socket.socket) -> None:
        buffer = b""
        while True:
            try:
                data = ours.recv(65536)
            except TimeoutError:
                continue  # Quiet is no trouble; the timeout is for sending.
            except OSError:
                data = b""
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            try:
                events = [decode_event(line) for line in lines]
            except ValueError:
                break  # It can't be talked with: another version of this package, or a broken one. It is ended like a dead one.
            for event in events:
                self._on_event(event)
                if isinstance(event, EntryCommitted):
                    self._deposits.drop(event.entry)
                    self.sweep()
        if not self._closing:
            self._reap()
            self._on_death()

    def send(self, command: Command) -> bool:
        """Pass a command on."""
        self._closing = self._closing or isinstance(command, Close)
        with self._guard:
            if self._socket is None:
                return False
            try:
                self._socket.sendall(encode(command))
            except OSError:
                return False
            return True

    def _reap(self) -> None:
        """Wait for a process that has closed its socket. One that does not end would keep the spool's lock from its successor."""
        if self._process is not None:
            try:
                self._process.wait(REAP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the process."""
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
        self._release()
        self._deposits.close()
        return True

    def stop(self) -> None:
        """Kill the process, which writes nothing but its own log before it is given a save."""
        self._closing = True
        if self._process is not None:
            self._process.kill()

    def leave(self) -> None:
        """Let the process go on by itself; it ends with the spool empty, or at its deadline."""
        self._closing = True
        if self._process is not None:
            # It is not ours to wait for any more; init reaps it.
            self._process.returncode = self._process.poll() if self._process.poll() is not None else 0
        self._release()
        self._deposits.close()

    def sweep(self) -> None:
        """Give deposits back."""
        self._deposits.keep_only(self._waits)

    def _waits(self, label: str) -> bool:
        try:
            return waits_beside(self._folder, label)
        except OSError:
            return True  # A folder that can't be read now is looked at again.

    def give_up(self) -> None:
        """Make private what nobody will guard any more."""
        from ckpt_async.spool.keeping import keep_left_links  # hardly ever needed

        for folder in (*older_attempts(self._folder), self._folder):
            keep_left_links(folder)
        self._deposits.close()

    def last_words(self) -> str:
        """The end of the sidecar's log."""
        try:
            with open(os.path.join(self._folder, SIDECAR_LOG), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - LAST_WORDS_BYTES))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _release(self) -> None:
        """Close what belongs to a process that has ended, or that is left to itself."""
        with self._guard:
            ours, self._socket = self._socket, None
            link_guard, self._link_guard = self._link_guard, None
        if link_guard is not None:
            link_guard.close()
        if ours is not None:
            try:
                ours.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # The other side is gone already; the reader has seen that.
            ours.close()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join()
            self._reader = None


def launch(
    folder: str, connection: socket.socket, guarding: socket.socket | None, task_pid: int, deposits: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start the process; see `ckpt_async.sidecar`.

    Parameters
    ----------
    folder : str
        The spool.
    connection, guarding : socket.socket
        The sidecar's ends. The caller closes its own copies.
    task_pid : int
        Of the task, or `NOBODY`.
    deposits : sequence of int
        What the guard was told of; see `GuardClient.hand_over`.

    Raises
    ------
    OSError
        It can't be started.
    """
    passed = [connection.fileno(), *([guarding.fileno()] if guarding is not None else [])]
    arguments = [folder, str(passed[0]), str(task_pid), *map(str, passed[1:])]
    log = os.open(os.path.join(folder, SIDECAR_LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # It holds neither of the task's output pipes: whoever reads those would wait for it after the task's death.
        return subprocess.Popen(
            [sys.executable, "-m", "ckpt_async.sidecar", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[*passed, *deposits],
            start_new_session=True,
            cwd="/",  # `-m` puts the working folder first on the path, where a user's random.py would be imported.
            env=_environment(),
        )
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """The task's environment, with the place of this package on the path: the task may have found it through `sys.path` alone."""
    environment = dict(os.environ)
    paths = [path for path in sys.path if path and os.path.isabs(path) and os.path.isdir(path)]
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([home, *_own_paths(paths)]))
    environment.pop("PYTHONSTARTUP", None)
    return environment


def _own_paths(paths: list[str]) -> list[str]:
    """Leave out what the interpreter puts on the path by itself, and the folder of the user's script."""
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [os.path.abspath(path) for path in own if path and os.path.abspath(path) in {os.path.abspath(known) for known in paths}]
