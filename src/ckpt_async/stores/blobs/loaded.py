"""Files that were loaded as a whole, kept for a while because their ranges are asked for one after the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from ckpt_async.stores.blobs.access import Blobs

__all__ = ["LoadedBlobs"]

#: How many files are kept that nobody reads at the moment.
KEPT = 4


@dataclass
class _Loaded:
    """A file, or one that is being loaded: whoever holds the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    path: str | None = None
    is_loaded: bool = False
    users: int = 0
    is_stale: bool = False


class LoadedBlobs:
    """Loads each file once for all who ask for it in a row; for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, _Loaded] = {}

    @contextlib.contextmanager
    def use(self, key: str, blobs: Blobs) -> Iterator[str | None]:
        """Give the path of the content; None where there is nothing."""
        with self._lock:
            # Put last: the first ones are those that nobody has asked for longest.
            loaded = self._files[key] = self._files.pop(key) if key in self._files else _Loaded()
            loaded.users += 1
        try:
            with loaded.lock:
                if not loaded.is_loaded:
                    loaded.path = loaded.opened.enter_context(blobs.load(key))
                    loaded.is_loaded = True
            yield loaded.path
        finally:
            with self._lock:
                loaded.users -= 1
                # What is not there may come.
                if loaded.path is None:
                    self._drop(key, loaded)
                unused = [(name, one) for name, one in self._files.items() if not one.users]
                ended = unused[: max(0, len(unused) - KEPT)]
                for name, _ in ended:
                    del self._files[name]
                if loaded.is_stale and not loaded.users:
                    ended.append((key, loaded))
            for _, one in ended:
                one.opened.close()

    def forget(self, key: str) -> None:
        """Another content has come in the place of a file."""
        with self._lock:
            loaded = self._files.get(key)
            if loaded is None:
                return
            self._drop(key, loaded)
            if loaded.users:
                return
        loaded.opened.close()

    def _drop(self, key: str, loaded: _Loaded) -> None:
        loaded.is_stale = True
        if self._files.get(key) is loaded:
            del self._files[key]

    def close(self) -> None:
        """Let go of all files. Nobody uses any of them any more."""
        with self._lock:
            files, self._files = self._files, {}
        with contextlib.ExitStack() as stack:
            for loaded in files.values():
                stack.enter_context(loaded.opened)
