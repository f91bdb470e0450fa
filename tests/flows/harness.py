"""Runs flows as a user does: ``python flow.py run``, in a folder of their own."""

from __future__ import annotations

import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fixtures_clouds import AzurePlace, GcsPlace
from tests.fixtures_s3 import S3Place

PROGRAMS = Path(__file__).parent / "programs"
RUN_TIMEOUT_S = 280.0
QUIET_TIMEOUT_S = 30.0


def s3_variables(place: S3Place, endpoint_url: str) -> dict[str, str]:
    """Metaflow's settings for a place on the test server, reached through `endpoint_url`."""
    return {
        "METAFLOW_DATASTORE_SYSROOT_S3": place.url,
        "METAFLOW_S3_ENDPOINT_URL": endpoint_url,
        "METAFLOW_DATATOOLS_CLIENT_PARAMS": json.dumps({"region_name": place.server.region}),
        # Metaflow's own transfers, each in a process that makes a client: the more of them, the longer they take here.
        "METAFLOW_S3_WORKER_COUNT": "1",
        "AWS_ACCESS_KEY_ID": place.server.admin.access_key,
        "AWS_SECRET_ACCESS_KEY": place.server.admin.secret_key,
    }


#: For ``PYTHONPATH``: an extension that registers how the servers for tests are reached, and a kind of datastore.
EXTENSION = str(Path(__file__).parent / "extension")


def azure_variables(place: AzurePlace) -> dict[str, str]:
    """Metaflow's settings for a place on Azurite."""
    return {
        "PYTHONPATH": EXTENSION,
        "METAFLOW_DEFAULT_AZURE_CLIENT_PROVIDER": "azure-for-tests",
        "METAFLOW_AZURE_STORAGE_BLOB_SERVICE_ENDPOINT": place.server.endpoint_url,
        "METAFLOW_DATASTORE_SYSROOT_AZURE": f"{place.container}/{place.prefix}",
        "REQUESTS_CA_BUNDLE": place.server.authority,
    }


def gcs_variables(place: GcsPlace) -> dict[str, str]:
    """Metaflow's settings for a place on fake-gcs-server."""
    return {
        "PYTHONPATH": EXTENSION,
        "METAFLOW_DEFAULT_GCP_CLIENT_PROVIDER": "gcp-for-tests",
        "METAFLOW_DATASTORE_SYSROOT_GS": place.url,
        "STORAGE_EMULATOR_HOST": place.server.endpoint_url,
    }


@dataclass
class FlowResult:
    """What a run printed, and how it ended."""

    code: int
    text: str

    def numbers(self, word: str) -> list[int]:
        """The numbers behind `word` in the printed lines, in order."""
        return [int(number) for number in re.findall(rf"\b{word} (\d+)", self.text)]

    def after(self, word: str) -> list[str]:
        """What stands behind `word` on each line that has it."""
        return [match.strip() for match in re.findall(rf"\b{re.escape(word)} (.*)", self.text)]


class LiveRun:
    """A run under way; a context manager that leaves nothing of it but sidecars.

    Attributes
    ----------
    process : subprocess.Popen
        The runtime; its tasks are in its process group.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._printed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="flow-output")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                with self._printed:
                    self._lines.append(line)
                    self._printed.notify_all()
        with self._printed:
            self._ended = True
            self._printed.notify_all()

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return "".join(self._lines)

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until `count` lines match; returns what the pattern's group holds in each line that does."""
        found: list[str] = []
        read = 0
        deadline = time.monotonic() + RUN_TIMEOUT_S
        with self._printed:
            while True:
                found += [match.group(match.lastindex or 0) for line in self._lines[read:] if (match := re.search(pattern, line))]
                read = len(self._lines)
                if len(found) >= count or self._ended or not self._printed.wait(max(0.0, deadline - time.monotonic())):
                    break
        assert len(found) >= count, f"{len(found)} of {count} lines match {pattern!r}; it printed:\n{self.text}"
        return found

    def end(self) -> FlowResult:
        """Wait for its end: that of the runtime, and of all that hold its output."""
        with self._printed:
            assert self._printed.wait_for(lambda: self._ended, RUN_TIMEOUT_S), f"the run did not end; it printed:\n{self.text}"
        self._reader.join()
        return FlowResult(self.process.wait(RUN_TIMEOUT_S), self.text)

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join()
        self.process.wait()


@dataclass
class Place:
    """A folder for runs: datastore, temporary files and home are in it.

    Attributes
    ----------
    datastore : str
        ``"local"``, ``"s3"``, ``"azure"``, ``"gs"`` or ``"shelf"``.
    variables : mapping
        Beyond those that every run gets.
    python : str
        The interpreter of the runs.
    """

    folder: Path
    datastore: str = "local"
    variables: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def scratch(self) -> Path:
        """Where spools stand by default."""
        return self.temporary / f"ckpt-async-{os.getuid()}"

    def environment(self) -> dict[str, str]:
        self.temporary.mkdir(parents=True, exist_ok=True)
        foreign = ("METAFLOW_", "AWS_", "AZURE_", "GOOGLE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {
            **kept,
            "HOME": str(self.folder),
            "TMPDIR": str(self.temporary),
            "PYTHONUNBUFFERED": "1",
            "METAFLOW_USER": "tester",
            "METAFLOW_DEFAULT_DATASTORE": self.datastore,
            "METAFLOW_DEFAULT_METADATA": "local",
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.folder),
            **self.variables,
        }

    def start(self, program: str, *arguments: str, command: str = "run") -> LiveRun:
        """Start a flow and return at once; it gets a process group of its own."""
        return LiveRun(
            subprocess.Popen(
                [self.python, str(PROGRAMS / program), "--no-pylint", command, *arguments],
                cwd=self.folder,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )

    def run(self, program: str, *arguments: str, command: str = "run") -> FlowResult:
        """Run a flow to its end."""
        with self.start(program, *arguments, command=command) as run:
            return run.end()

    def look(self, flow: str) -> dict[str, Any]:
        """Return what the Client API finds of the flow's latest run; see ``programs/look.py``."""
        found = subprocess.run(
            [self.python, str(PROGRAMS / "look.py"), flow],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        assert found.returncode == 0, found.stderr
        tasks: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return tasks

    def leftovers(self) -> list[str]:
        """Checkpoint directories and spools that are still there."""
        left = [str(path) for path in self.temporary.glob("metaflow_checkpoint_*")]
        return left + self.spools()

    def spools(self) -> list[str]:
        """Spools that are still there."""
        # Not by rglob(), which fails where a sidecar removes a folder that it is about to look into.
        return [os.path.join(base, "spool.json") for base, _, names in os.walk(self.scratch) if "spool.json" in names]

    def saves_left(self, pathspec: str) -> list[str]:
        """What a task has saved and is not in the store yet."""
        return glob.glob(f"{self.scratch}/{pathspec.replace('/', '-')}-*/*/[ar]*/*/entry.json")

    def wait_until_clean(self) -> list[str]:
        """Wait until nothing is left over (a sidecar that outlives its task ends by itself); returns what is."""
        return self._wait_while(self.leftovers)

    def wait_until_stored(self) -> None:
        """Wait until no spool is left: also where a task was killed after which none came that could clean up."""
        assert self._wait_while(self.spools) == []

    def _wait_while(self, look: Callable[[], list[str]]) -> list[str]:
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while (left := look()) and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        return left
