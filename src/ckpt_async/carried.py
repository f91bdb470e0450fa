"""Taking this package, with what it needs at the least, to where it is not installed; and using there what came along.

What is needed lies in a folder of its own for each package, with its version in its name, so that what an image has of it can be
compared: whichever is newer is taken.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Iterator

__all__ = ["CARRIED", "NEEDED", "files_to_carry", "use_carried"]

#: The folder, in this package's own, that holds what came along.
CARRIED = "_carried"

#: What a worker can't do without, in pure Python: anyio, and what it needs in one of its versions or on one of Python's. Where a
#: package is carried from, the Python may be another one than where it is carried to.
NEEDED = ("anyio", "exceptiongroup", "idna", "sniffio", "typing_extensions")

#: What no task uses: what is for tests, and the command line, which needs packages that are not carried.
_LEFT_OUT = {"testing", "cli", "__pycache__"}

#: Of anyio, what needs other packages.
_NOT_USED = ("anyio._backends._trio", "anyio.pytest_plugin")


def files_to_carry() -> Iterator[tuple[str, str]]:
    """Yield the files of this package, and of what it needs: the path of each, and where it goes, relative to a folder that will
    be on Python's path.
    """
    home = os.path.dirname(os.path.abspath(__file__))
    yield from _sources(home, __package__)
    if os.path.isdir(os.path.join(home, CARRIED)):
        return  # It has been carried here itself, and what it needs is among its own files.
    for name in NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue  # Not every version of anyio needs all of them.
        target = f"{__package__}/{CARRIED}/{name}-{_installed(name) or '0'}/{name}"
        if spec.submodule_search_locations:
            yield from _sources(os.path.dirname(spec.origin), target)
        else:
            yield spec.origin, f"{target}.py"


def _sources(folder: str, target: str) -> Iterator[tuple[str, str]]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        below = os.path.relpath(base, folder)
        place = target if below == "." else f"{target}/{below.replace(os.sep, '/')}"
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.join(base, name), f"{place}/{name}"


def use_carried(folder: str) -> None:
    """Put what was carried onto Python's path, as far as it is newer than what is there.

    Parameters
    ----------
    folder : str
        `CARRIED`, with a folder ``NAME-VERSION`` for each package.
    """
    newer = set()
    for entry in sorted(os.listdir(folder)):
        name, _, version = entry.rpartition("-")
        # What is imported already can't be replaced: others use it.
        if name != "typing_extensions" and name in sys.modules:
            continue
        installed = _installed(name)
        if installed is None or _numbers(installed) < _numbers(version):
            sys.path.insert(0, os.path.join(folder, entry))
            newer.add(name)
    if newer >= {"anyio", "typing_extensions"}:
        _import_beside_older()


def _import_beside_older() -> None:
    """Import anyio with the typing_extensions that it needs, where the user's code has imported an older one."""
    older = sys.modules.pop("typing_extensions", None)
    if older is None:
        return
    try:
        anyio = importlib.import_module("anyio")
        # All of it: what is imported later would meet the older one.
        for module in pkgutil.walk_packages(anyio.__path__, "anyio."):
            if module.name not in _NOT_USED:
                importlib.import_module(module.name)
    finally:
        sys.modules["typing_extensions"] = older


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
