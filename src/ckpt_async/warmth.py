"""What saving needs is imported when the worker is ready: a task that ends before has no need of it, and in any other the first
``save()`` must not wait for it.
"""

from __future__ import annotations

import importlib
import os
import threading

from ckpt_async.words.events import WorkerReady

__all__ = ["warm_up"]

#: ``spool.keeping`` is needed when no worker can be started any more, as where no file can be opened.
IMPORTED = ("ckpt_async.taking", "ckpt_async.spool.keeping")

#: Longer a fork does not wait: whoever forks may have imported half of a module that the other thread is waiting for.
FORK_PATIENCE_S = 1.0

#: A child that is forked in the middle of another thread's import would wait for ever for that module.
_importing = threading.Lock()
_forking = threading.local()


def warm_up(event: object) -> None:
    """Import it, at the worker's first sign of life."""
    if isinstance(event, WorkerReady):
        with _importing:
            for name in IMPORTED:
                importlib.import_module(name)


def _before_fork() -> None:
    _forking.holds = _importing.acquire(timeout=FORK_PATIENCE_S)


def _after_fork() -> None:
    if getattr(_forking, "holds", False):
        _forking.holds = False
        _importing.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
