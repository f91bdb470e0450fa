"""The process of a test server on a port of its own: from its start to its end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ckpt_async.testing.ports import free_ports

__all__ = ["ServerProgram"]

STOP_TIMEOUT_S = 10.0
STARTS = 3


class ServerProgram:
    """Starts and ends a program that serves on a free port.

    Parameters
    ----------
    folder : str
        In which it runs; its output goes into the file `log` there.
    command : callable
        Returns what starts it, for a port.
    answers : callable
        Returns whether it serves.
    start_timeout_s : float
        How long that may take.

    Attributes
    ----------
    port : int
        Of the last start; 0 before.
    """

    def __init__(
        self, folder: str, command: Callable[[int], Sequence[str]], answers: Callable[[], bool], start_timeout_s: float
    ) -> None:
        self.port = 0
        self._folder = folder
        self._command = command
        self._answers = answers
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it serves. Raises RuntimeError, with the end of what it printed, where it does not."""
        for start in range(1, STARTS + 1):
            try:
                self._start()
                return
            except RuntimeError:
                # Another process may have taken the port meanwhile.
                if start == STARTS:
                    raise

    def _start(self) -> None:
        [self.port] = free_ports(1)
        path = Path(self._folder, "log")
        with path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(self.port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + self._start_timeout_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the test server did not start:\n{path.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and wait for that. Does nothing where it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
