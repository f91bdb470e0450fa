"""Tasks as Kubernetes and Batch run them: the code package of a flow, in an image that has only what Metaflow installs there."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.environments import interpreter, packages, product, requirements, virtual_environment
from tests.flows.harness import PROGRAMS, RUN_TIMEOUT_S, Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENGINE = ".mf_code/ckpt_async/"


@pytest.fixture(scope="module")
def bare_python() -> str:
    """A Python with what Metaflow installs in a bare image; an older one than that which sends the code, where there is one."""
    older = interpreter("3.10")
    name = "bare-3.10" if older else "bare"
    return str(virtual_environment(name, ["boto3", "requests"], python=older or sys.executable))


@pytest.fixture(scope="module")
def launching_python() -> str:
    """A Python with what users install but for ckpt-async itself; a newer one, where there is one."""
    newer = interpreter("3.13")
    name = "python-3.13" if newer else "python"
    return str(virtual_environment(name, [*requirements(), "metaflow"], python=newer or sys.executable))


@dataclass
class Machine:
    """Where one task runs: with a folder of its own for the code, and one for temporary files."""

    place: Place
    python: str
    code: Path

    def environment(self, path: str = "") -> dict[str, str]:
        usual = self.place.environment()
        usual.pop("PYTHONPATH", None)
        work = f"{self.code}/.mf_code"
        return {**usual, "PYTHONPATH": f"{work}:{path}" if path else work, "METAFLOW_EXTRACTED_ROOT": str(self.code)}

    def run(self, program: str, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, program, "--quiet", "--no-pylint", "--metadata", "local", *arguments],
            cwd=self.code,
            env=self.environment(path),
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )


def packed(place: Place, program: Path) -> Path:
    """Return the code package of a flow."""
    folder = Path(tempfile.mkdtemp(prefix="launcher-", dir=place.folder))
    shutil.copy(program, folder)
    target = folder / "code.tgz"
    saved = subprocess.run(
        [place.python, program.name, "--no-pylint", "package", "save", str(target)],
        cwd=folder,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert saved.returncode == 0, saved.stdout + saved.stderr
    return target


def engine_in(package: Path) -> set[str]:
    """Return the files of the engine, and of what it carries, in a code package."""
    with tarfile.open(package) as archive:
        return {name for name in archive.getnames() if name.startswith(ENGINE)}


def machine(place: Place, python: str, package: Path, name: str) -> Machine:
    """Return a fresh machine that has nothing but the package."""
    folder = place.folder / name
    code = folder / "metaflow"
    code.mkdir(parents=True)
    with tarfile.open(package) as archive:
        archive.extractall(code)
    return Machine(Place(folder, place.datastore, place.variables), python, code)


@pytest.fixture
def old_typing_extensions() -> Iterator[str]:
    """On Python's path, and imported by the flow before anything of ours: many an image has one that is too old for anyio."""
    yield str(packages("old-typing-extensions", ["typing_extensions==4.7.1"]))


def test_a_bare_image(on_s3: Place, launching_python: str, bare_python: str, old_typing_extensions: str) -> None:
    variables = {**on_s3.variables, "PYTHONPATH": str(product())}
    package = packed(dataclasses.replace(on_s3, python=launching_python, variables=variables), PROGRAMS / "remote.py")
    # The same from a checkout, which an editable install leads to.
    assert engine_in(package) == engine_in(packed(on_s3, PROGRAMS / "remote.py"))
    first, second = (machine(on_s3, bare_python, package, name) for name in ("first", "second"))
    resumed = killed_and_resumed(first, second, old_typing_extensions)
    assert resumed.stderr.count("S3 is reached through botocore in threads: aiobotocore can't be imported") == 1, resumed.stderr


@pytest.mark.parametrize(
    "installed", [["azure-identity", "azure-storage-blob"], ["google-auth", "google-cloud-storage"]], ids=["azure", "gcs"]
)
def test_a_bare_image_on_a_cloud(on_azure: Place, on_gcs: Place, installed: list[str]) -> None:
    """With what Metaflow installs in an image for such a datastore."""
    where = on_azure if "azure-identity" in installed else on_gcs
    package = packed(where, PROGRAMS / "remote.py")
    python = str(virtual_environment(f"bare-{where.datastore}", ["boto3", "requests", *installed]))
    first, second = (machine(where, python, package, name) for name in ("first", "second"))
    killed_and_resumed(first, second)


def killed_and_resumed(first: Machine, second: Machine, path: str = "") -> subprocess.CompletedProcess[str]:
    """Kill a task on one machine, and have its retry go on from what it had saved on another one; return what that printed."""

    def step(where: Machine, attempt: int) -> subprocess.CompletedProcess[str]:
        attempts = ["--retry-count", str(attempt), "--max-user-code-retries", "2"]
        task = ["--run-id", "7", "--task-id", "2", "--input-paths", "7/_parameters/1"]
        return where.run("remote.py", "step", "start", *task, *attempts, path=path)

    begun = first.run("remote.py", "init", "--run-id", "7", "--task-id", "1", path=path)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    killed = step(first, 0)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert f"engine from {first.code}/.mf_code/ckpt_async" in killed.stdout
    # The process beside the task outlives it here, and stores what it had saved.
    first.place.wait_until_stored()

    # Another machine: the datastore is all that they share.
    resumed = step(second, 1)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resumed at 2 from attempt 0" in resumed.stdout
    assert second.place.wait_until_clean() == []
    return resumed


PLAIN = """
from metaflow import FlowSpec, step

class WithoutFlow(FlowSpec):
    @step
    def start(self):
        import importlib.util
        from metaflow import Checkpoint, checkpoint
        print("engine", importlib.util.find_spec("ckpt_async"))
        try:
            Checkpoint()
        except Exception as error:
            print("refused:", error)
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    WithoutFlow()
"""


def test_a_flow_without_checkpoints_carries_nothing(local: Place, bare_python: str, tmp_path: Path) -> None:
    program = tmp_path / "without.py"
    program.write_text(PLAIN)
    package = packed(local, program)
    assert engine_in(package) == set()
    remote = machine(local, bare_python, package, "remote")
    begun = remote.run("without.py", "init", "--run-id", "7", "--task-id", "1")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    ended = remote.run("without.py", "step", "start", "--run-id", "7", "--task-id", "2", "--input-paths", "7/_parameters/1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "engine None" in ended.stdout
    assert "refused: The package ckpt_async is not here." in ended.stdout
