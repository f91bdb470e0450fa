"""The notice that a spot instance is about to be taken away."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["SpotWatch", "notice_file"]

#: Metaflow's own monitor asks the cloud every five seconds.
LOOK_EVERY_S = 1.0

#: The notice is a time. Whatever else is in that file, the log gets no more of it.
NOTICE_CHARS = 40


def notice_file() -> str | None:
    """Return the file that Metaflow's monitor writes when the notice comes; None where no monitor runs."""
    from metaflow import current

    path = current.get("spot_termination_notice")
    return path if isinstance(path, str) and path else None


class SpotWatch:
    """Looks for a file once a second, in a thread of its own, until it is there or `stop` is called.

    Parameters
    ----------
    path : str
        The file.
    on_notice : callable
        Called once, in that thread, with what the file says.
    """

    def __init__(self, path: str, on_notice: Callable[[str], None]) -> None:
        self._path = path
        self._on_notice = on_notice
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ckpt-async-spot", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    text = file.read(NOTICE_CHARS)
            except OSError:
                # It is not there, or can't be read now.
                self._stopped.wait(LOOK_EVERY_S)
                continue
            self._on_notice("".join(sign for sign in text.strip() if sign.isprintable()))
            return

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()
