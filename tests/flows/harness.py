"""Runs flows as a user does: ``python flow.py run``, in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        "AWS_ACCESS_KEY_ID": place.server.admin.access_key,
        "AWS_SECRET_ACCESS_KEY": place.server.admin.secret_key,
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


@dataclass
class Place:
    """A folder for runs: datastore, temporary files and home are in it.

    Attributes
    ----------
    datastore : str
        ``"local"`` or ``"s3"``.
    variables : mapping
        Beyond those that every run gets.
    """

    folder: Path
    datastore: str = "local"
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def scratch(self) -> Path:
        """Where spools stand by default."""
        return self.temporary / f"ckpt-async-{os.getuid()}"

    def environment(self) -> dict[str, str]:
        self.temporary.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "AWS_"))}
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

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a run and return at once; it gets a process group of its own."""
        return subprocess.Popen(
            [sys.executable, str(PROGRAMS / program), "--no-pylint", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, *arguments: str, command: str = "run") -> FlowResult:
        """Run a flow to its end."""
        process = self.start(program, command, *arguments)
        try:
            text, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            raise AssertionError(f"the run did not end; it printed:\n{text}") from error
        return FlowResult(process.returncode, text)

    def look(self, flow: str) -> dict[str, Any]:
        """Return what the Client API finds of the flow's latest run; see ``programs/look.py``."""
        found = subprocess.run(
            [sys.executable, str(PROGRAMS / "look.py"), flow],
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
        return [str(path) for path in self.scratch.rglob("spool.json")] if self.scratch.exists() else []

    def wait_until_clean(self) -> list[str]:
        """Wait until nothing is left over (a sidecar that outlives its task ends by itself); returns what is."""
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while (left := self.leftovers()) and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        return left
