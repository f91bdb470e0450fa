"""Python environments that tests need beside their own: made once, kept in the checkout, and used again.

They stand in ``.venv-tests/`` of the checkout, which ``make clean`` removes; what they need comes from the package index.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".venv-tests"
INSTALL_TIMEOUT_S = 600.0
INSTALL = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]


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
        # Without a pip of its own, and without compiling what nobody will import: both take seconds.
        _run([python, "-m", "venv", "--without-pip", str(folder)])
        _run([*INSTALL[:3], "--python", str(folder / "bin" / "python"), *INSTALL[3:], "--no-compile", *requirements])

    return _made(name, [python, *requirements], make) / "bin" / "python"


def packages(name: str, requirements: list[str]) -> Path:
    """Return a folder for ``PYTHONPATH`` that holds these packages alone, without what they require."""

    def make(folder: Path) -> None:
        _run([*INSTALL, "--no-deps", "--no-compile", "--target", str(folder), *requirements])

    return _made(name, [sys.executable, *requirements], make)


def node_package(name: str) -> Path:
    """Return the folder of a package for Node.js, which needs npm once."""
    npm = shutil.which("npm")
    assert npm is not None, f"the tests need npm, which comes with Node.js, to install {name!r}"

    def make(folder: Path) -> None:
        folder.mkdir()
        _run([npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", name])

    return _made(name, [npm, name], make) / "node_modules" / name


def product() -> Path:
    """Return a folder for ``PYTHONPATH`` that holds what users install: the wheel of this checkout, as it is now."""
    parts = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", ROOT / "src", ROOT / "metaflow_extensions"]
    files = sorted(path for part in parts for path in [part, *part.rglob("*.py")] if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())

    def make(folder: Path) -> None:
        # From a copy: building leaves folders beside the sources.
        with tempfile.TemporaryDirectory() as copy:
            for part in parts:
                if part.is_dir():
                    shutil.copytree(part, Path(copy, part.name), ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
                elif part.exists():
                    shutil.copy(part, copy)
            _run([*INSTALL, "--no-deps", "--no-compile", "--target", str(folder), copy])

    return _made("product", [sys.executable, digest.hexdigest()], make)


def requirements() -> list[str]:
    """Return what the product requires, without its extras, as pip takes it."""
    found = importlib.metadata.requires("ckpt-async") or []
    return [line for line in found if "extra ==" not in line]


def interpreter(version: str) -> str | None:
    """Return a Python of this version, such as ``"3.10"``: on the PATH, beside this one, or where pyenv installs them; None where
    there is none.
    """
    roots = (Path(sys.base_prefix).parent, Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions")
    installed = [str(found) for root in roots for found in sorted(root.glob(f"{version}.*/bin/python{version}"))]
    for candidate in [shutil.which(f"python{version}"), *installed]:
        # What is on the PATH may only be a stand-in for a Python that is switched off, or one of a system that packages venv apart.
        if (
            candidate
            and subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True, timeout=60).returncode == 0
        ):
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
