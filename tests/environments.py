"""Python environments that tests need beside their own: made once, kept in the checkout, and used again.

They stand in ``.venv-tests/`` of the checkout, which ``make clean`` removes; what they need comes from the package index.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".venv-tests"
INSTALL_TIMEOUT_S = 600.0


def virtual_environment(name: str, requirements: list[str], *, python: str = sys.executable) -> Path:
    """Return the Python of a virtual environment with nothing but these requirements.

    Parameters
    ----------
    name : str
        Of the environment: the folder in `ENVIRONMENTS`.
    requirements : list of str
        As pip takes them.
    python : str
        Of which it is made.
    """

    def make(folder: Path) -> None:
        _run([python, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])

    return _made(name, [python, *requirements], make) / "bin" / "python"


def packages(name: str, requirements: list[str]) -> Path:
    """Return a folder for ``PYTHONPATH`` that holds these packages alone, without what they require."""

    def make(folder: Path) -> None:
        install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-compile"]
        _run([*install, "--target", str(folder), *requirements])

    return _made(name, [sys.executable, *requirements], make)


def interpreter(version: str) -> str | None:
    """Return a Python of that version, such as ``"3.10"``, where the machine has one: by its name, or among those of pyenv."""
    named = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for candidate in [*named, *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]:
        # The first may be no more than a signpost to the others.
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, timeout=60).returncode == 0:
            return candidate
    return None


def _made(name: str, recipe: list[str], make: Callable[[Path], None]) -> Path:
    """Make a folder by this recipe, unless it is there. Several processes may ask for it at once."""
    folder, stamp = ENVIRONMENTS / name, ENVIRONMENTS / f"{name}.json"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with _locked(ENVIRONMENTS / f"{name}.lock"):
        if not stamp.exists() or json.loads(stamp.read_text()) != recipe:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            stamp.write_text(json.dumps(recipe))
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
