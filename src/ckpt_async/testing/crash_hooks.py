"""Makes the engine's operations on the disk into numbered steps, by replacing functions of `os` in the process under test.

Nothing in the engine knows of it. Only paths below the given roots count: the spool, a local store, the folder that is loaded
into. For a process that exists for one run, and is thrown away.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckpt_async.testing.crash_plan import Steps, kill_self

__all__ = ["Hooks", "unwatched"]

_RANDOM = re.compile(r"(\.tmp-|put-|upload-|\.partial-)[0-9a-f]+")
_TASK_FOLDER = re.compile(r"^spool/[A-Za-z0-9_-]+-[0-9a-f]{12}(?=/|$)")

_KILLS = ("kill",)
_CHANGE = ("kill", "EIO")
_GROW = ("kill", "EIO", "ENOSPC")
_FILL = ("kill", "tear", "EIO", "ENOSPC")
_READ = ("EIO",)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


_THIS = threading.local()


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Let what this thread does on the disk be no steps: the test itself is looking."""
    _THIS.unwatched = True
    try:
        yield
    finally:
        _THIS.unwatched = False


class Hooks:
    """The replaced functions.

    Parameters
    ----------
    steps : Steps
        Asked before each operation.
    roots : mapping of str to str
        What a root is called in the names of steps, and its path.
    """

    def __init__(self, steps: Steps, roots: Mapping[str, str]) -> None:
        self._steps = steps
        self._roots = {name: os.path.realpath(path) for name, path in roots.items()}
        self._paths: dict[int, str] = {}
        self._originals: dict[str, Any] = {}

    def install(self) -> None:
        """Replace them, for good."""
        self._replace("open", self._open)
        self._replace("close", self._close)
        for name in ("mkdir", "link", "symlink"):
            self._on_path(name, _GROW, last=name in ("link", "symlink"))
        for name in ("unlink", "remove", "rmdir", "chmod", "utime", "truncate"):
            self._on_path(name, _CHANGE)
        for name in ("listdir", "scandir"):
            self._on_path(name, _READ)
        for name in ("rename", "replace"):
            self._replace(name, self._rename(getattr(os, name), name))
        for name in ("fsync", "fdatasync"):
            if hasattr(os, name):
                self._on_descriptor(name, _GROW)
        for name in ("ftruncate", "fchmod"):
            self._on_descriptor(name, _CHANGE)
        for name in ("pread", "preadv"):
            self._on_descriptor(name, _READ)
        for name, data in (("write", 1), ("pwrite", 1), ("sendfile", 3)):
            if hasattr(os, name):
                self._replace(name, self._filling(getattr(os, name), name, data))
        self._originals["builtins.open"] = builtins.open
        builtins.open = self._built_in_open

    def _replace(self, name: str, function: Callable[..., Any]) -> None:
        self._originals[name] = getattr(os, name)
        setattr(os, name, function)

    def _name(self, path: Any, folder: int | None = None) -> str:
        """Return what the path is called in a step's name; empty where it does not count."""
        if isinstance(path, int):
            path = self._paths.get(path, "")
        else:
            path = os.fsdecode(path)
            if folder is not None and not os.path.isabs(path):
                path = os.path.join(self._paths.get(folder, ""), path)
        for name, root in self._roots.items():
            if path == root or path.startswith(root + "/"):
                named = _TASK_FOLDER.sub("spool", name + path[len(root) :])
                return _RANDOM.sub(r"\1*", named)
        return ""

    def _step(self, operation: str, name: str, kinds: tuple[str, ...]) -> str:
        if not name or getattr(_THIS, "unwatched", False):
            return ""
        return self._steps.reach(operation, name, kinds)

    def _fail(self, wrong: str, path: Any) -> None:
        number = getattr(errno, wrong, 0)
        if number:
            raise OSError(number, f"{os.strerror(number)} (as the test's plan says)", str(path))

    # The replacements

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        name = self._name(path, dir_fd)
        if flags & os.O_CREAT:
            self._fail(self._step("create", name, _GROW), path)
        elif name:
            self._fail(self._step("open", name, _CHANGE if flags & _WRITES else _READ), path)
        descriptor: int = self._originals["open"](path, flags, mode, dir_fd=dir_fd)
        if name:
            text = os.fsdecode(path)
            self._paths[descriptor] = text if dir_fd is None else os.path.join(self._paths.get(dir_fd, ""), text)
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        self._originals["close"](descriptor)

    def _on_path(self, operation: str, kinds: tuple[str, ...], *, last: bool = False) -> None:
        original = getattr(os, operation)

        def act(*arguments: Any, **named: Any) -> Any:
            path = arguments[1 if last else 0] if arguments else named.get("path", ".")
            name = self._name(path, named.get("dst_dir_fd" if last else "dir_fd"))
            self._fail(self._step(operation, name, kinds), path)
            return original(*arguments, **named)

        self._replace(operation, act)

    def _on_descriptor(self, operation: str, kinds: tuple[str, ...]) -> None:
        original = getattr(os, operation)

        def act(descriptor: int, *arguments: Any) -> Any:
            self._fail(self._step(operation, self._name(descriptor), kinds), self._paths.get(descriptor, descriptor))
            return original(descriptor, *arguments)

        self._replace(operation, act)

    def _rename(self, original: Callable[..., None], operation: str) -> Callable[..., None]:
        def act(source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            self._fail(self._step(operation, self._name(target, dst_dir_fd), _GROW), target)
            original(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return act

    def _filling(self, original: Callable[..., int], operation: str, size_at: int) -> Callable[..., int]:
        """Of `write` and `pwrite` the data are the second argument, of `sendfile` the length is the fourth."""

        def act(descriptor: int, *arguments: Any) -> int:
            wrong = self._step(operation, self._name(descriptor), _FILL)
            given = arguments[size_at - 1]
            whole = given if isinstance(given, int) else len(given)
            full = wrong == "ENOSPC" and self._steps.plan is not None and self._steps.plan.lasting and whole > 1
            if wrong == "tear" or (full and self._shortens()):
                half: Any = given // 2 if isinstance(given, int) else bytes(given)[: len(given) // 2]
                arrived = original(descriptor, *arguments[: size_at - 1], half, *arguments[size_at:])
                if wrong == "tear":
                    kill_self()
                return arrived
            self._fail(wrong, self._paths.get(descriptor, descriptor))
            return original(descriptor, *arguments)

        return act

    def _shortens(self) -> bool:
        """A disk that becomes full takes a part of one write, and nothing of later ones."""
        first, self._shortened = not getattr(self, "_shortened", False), True
        return first

    def _built_in_open(self, file: Any, *arguments: Any, **named: Any) -> Any:
        if not isinstance(file, int):
            self._fail(self._step("open", self._name(file), _READ), file)
        return self._originals["builtins.open"](file, *arguments, **named)
