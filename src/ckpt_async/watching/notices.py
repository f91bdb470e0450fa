"""Being told of changes in a folder: by the kernel, through watchfiles, whose waiting is done in Rust."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import AsyncGenerator, Callable
from types import ModuleType

import anyio
import anyio.to_thread

__all__ = ["Change", "Ear", "NoNotices", "notices", "watchfiles_here"]

#: How often it is looked whether the folder is still the same one: the kernel tells nothing of what takes its place.
TICK_S = 1.0

#: What has happened to a path: ``"added"`` (made, or renamed to this), ``"modified"`` or ``"deleted"`` (or renamed).
Change = tuple[str, str]


class NoNotices(Exception):
    """Nobody tells of changes here; the text says why."""


def watchfiles_here() -> ModuleType | None:
    """Return watchfiles, imported; None where it is not installed, as in the bare image of a remote task."""
    try:
        return importlib.import_module("watchfiles")
    except ImportError:
        return None


async def notices(root: str, quiet_s: float, stop: anyio.Event) -> AsyncGenerator[set[Change], None]:
    """Yield what has changed below a folder, until `stop` is set; an empty set where anything may have: the watching began anew.

    Parameters
    ----------
    root : str
        Absolute, without symbolic links. It need not exist, and may be removed and made anew.
    quiet_s : float
        How fine the times of what is yielded need to be, in seconds: some fraction of this.
    stop : anyio.Event
        A cancellation alone would come only when the thread that waits has something to tell.

    Raises
    ------
    NoNotices
        The system does not tell, or can't for so many folders.
    """
    watchfiles = watchfiles_here()
    if watchfiles is None:
        raise NoNotices("the package watchfiles is not installed")
    step_ms = max(5, min(50, int(quiet_s * 100)))
    while not stop.is_set():
        inode = await _inode(root)
        if inode is None:
            await anyio.sleep(min(TICK_S, quiet_s))
            continue
        batches = watchfiles.awatch(
            root,
            watch_filter=None,
            stop_event=stop,
            debounce=max(step_ms, min(1000, int(quiet_s * 500))),
            step=step_ms,
            rust_timeout=int(TICK_S * 1000),
            yield_on_timeout=True,
            force_polling=False,
            ignore_permission_denied=True,
        )
        try:
            async with contextlib.aclosing(batches):
                began = False
                async for batch in batches:
                    if not began:
                        # What happened between the look before and the first of these is not told.
                        began = True
                        yield set()
                    if batch:
                        yield {(change.name, path) for change, path in batch}
                    if await _inode(root) != inode:
                        break
        except Exception as error:
            cause = _cause_of(error)
            if isinstance(cause, FileNotFoundError):
                continue  # removed in this moment
            # A limit of the system's, or an error inside watchfiles, which is a RuntimeError.
            if isinstance(cause, (OSError, RuntimeError)):
                raise NoNotices(str(cause)) from error
            raise
        yield set()


def _cause_of(error: BaseException) -> BaseException:
    """Return the exception in the group that the task group inside watchfiles makes of it."""
    while inner := getattr(error, "exceptions", ()):
        error = inner[0]
    return error


class Ear:
    """Listens to one folder.

    Parameters
    ----------
    root, quiet_s
        See `notices`.
    """

    def __init__(self, root: str, quiet_s: float) -> None:
        self._root = root
        self._quiet_s = quiet_s
        self._stop: anyio.Event | None = None
        self._closed = False

    async def listen(self, take_in: Callable[[set[Change]], None]) -> None:
        """Pass on what is told, until `close`. Raises NoNotices."""
        while not self._closed:
            self._stop = anyio.Event()
            async with contextlib.aclosing(notices(self._root, self._quiet_s, self._stop)) as told:
                async for changes in told:
                    take_in(changes)

    def begin_anew(self) -> None:
        """Listen to all folders that are there now: the notice of a new one may have been lost."""
        if self._stop is not None:
            self._stop.set()

    def close(self) -> None:
        """End `listen`."""
        self._closed = True
        self.begin_anew()


async def _inode(root: str) -> int | None:
    try:
        return (await anyio.to_thread.run_sync(os.stat, root)).st_ino
    except OSError:
        return None
