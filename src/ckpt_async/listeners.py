"""Who hears of the worker's events beside the engine itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ckpt_async.words.events import Event, WorkerReady

__all__ = ["Listeners"]

Listener = Callable[[object], None]


class Listeners:
    """May be used from several threads.

    Parameters
    ----------
    say : callable
        Prints a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._ready: WorkerReady | None = None

    def add(self, listener: Listener) -> None:
        """Have a listener hear all events; first of all that the worker is ready, where it has been so for some time."""
        with self._lock:
            self._listeners.append(listener)
            ready = self._ready
        if ready is not None:
            self._tell(ready, [listener])

    def tell(self, event: Event) -> None:
        """Pass an event on."""
        with self._lock:
            if isinstance(event, WorkerReady):
                self._ready = event
            listeners = list(self._listeners)
        self._tell(event, listeners)

    def worker_died(self) -> None:
        """There is no worker that is ready."""
        with self._lock:
            self._ready = None

    def _tell(self, event: Event, listeners: list[Listener]) -> None:
        """A listener that raises is told of and left out from then on: saving must not depend on it.

        In a thread of the engine that holds of ``SystemExit`` too: it would end the thread, and nobody would hear of a stored save
        any more. In the main thread such an exception may be that of a signal's handler, and is the task's.
        """
        for listener in listeners:
            try:
                listener(event)
            except BaseException as error:
                if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                    raise
                with self._lock:
                    self._listeners = [other for other in self._listeners if other is not listener]
                self._say(f"A listener failed and hears no more events: {type(error).__name__}: {error}")
