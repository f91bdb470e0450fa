"""A worker in a thread of the task's own process, for places that allow no child process."""

from __future__ import annotations

import functools
import importlib
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import CheckpointError
from ckpt_async.words.events import Close, Command, Event

if TYPE_CHECKING:
    import asyncio

    from ckpt_async.worker.runtime import StoreMaker, WorkerRuntime

__all__ = ["ThreadWorker"]

#: How long a thread that must end may take to cancel its requests.
CANCEL_TIMEOUT_S = 10.0


class ThreadWorker:
    """See `ckpt_async.worker.handle.WorkerHandle`. Ends with the process: what it had not uploaded waits for the next attempt.

    Parameters
    ----------
    folder : str
        The spool.
    make_store : callable
        See `ckpt_async.worker.runtime.StoreMaker`.
    on_event : callable
        Takes events, in the worker's loop: it must be quick.
    on_death : callable
        Called where it ends without having been closed.
    """

    def __init__(
        self, folder: str, make_store: StoreMaker, on_event: Callable[[Event], None], on_death: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._make_store = make_store
        self._on_event = on_event
        self._on_death = on_death
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runtime: WorkerRuntime | None = None
        self._guard = threading.Lock()
        self._early: list[Command] = []
        self._closing = False
        self._error = ""

    def start(self) -> None:
        """Start the thread."""
        # Imported now: a step that waits for its uploads and never saves has a worker that never starts. And not in the thread: a
        # child that is forked meanwhile would wait for ever for what another thread was importing.
        importlib.import_module("ckpt_async.worker.runtime")
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="ckpt-async-worker", daemon=True)
        self._thread.start()

    @property
    def link_guard(self) -> None:
        """Nobody: a guard must be another process than the writers."""
        return None

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        import anyio

        try:
            anyio.run(self._main)
        except CheckpointError as error:
            self._error = str(error)
        except Exception:
            # Whatever it is, the task must learn that nothing is uploaded any more. A sidecar's log has the same.
            self._error = traceback.format_exc()
        finally:
            with self._guard:
                self._loop, self._runtime = None, None
        if not self._closing:
            self._on_death()

    async def _main(self) -> None:
        import asyncio

        from ckpt_async.worker.runtime import WorkerRuntime

        runtime = WorkerRuntime(Spool(self._folder), self._make_store, self._on_event)
        with self._guard:
            self._loop, self._runtime = asyncio.get_running_loop(), runtime
            early, self._early = self._early, []
        for command in early:
            runtime.handle(command)
        await runtime.run()

    def send(self, command: Command) -> bool:
        """Pass a command on."""
        self._closing = self._closing or isinstance(command, Close)
        with self._guard:
            if self._loop is None or self._runtime is None:
                if not self.alive:
                    return False
                self._early.append(command)
                return True
            try:
                self._loop.call_soon_threadsafe(functools.partial(self._runtime.handle, command))
            except RuntimeError:
                return False  # It has died in this moment, and closed its loop.
            return True

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def stop(self) -> None:
        """Nothing: a thread that has nothing to do ends as soon as it is told."""

    def leave(self) -> None:
        """End the thread: it can't outlive its process."""
        self.send(Close(0.0))
        self.join(CANCEL_TIMEOUT_S)

    def sweep(self) -> None:
        """Nothing is held."""

    def give_up(self) -> None:
        """Nothing: a thread guards nothing."""

    def last_words(self) -> str:
        """The error that ended it."""
        return self._error
