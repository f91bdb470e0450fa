"""Imports in another thread, and a fork in the middle of one."""

from __future__ import annotations

import importlib
import os
import threading

import pytest

from ckpt_async import warmth
from ckpt_async.words.events import EntrySaved, WorkerReady
from tests.engine.desk import DEADLINE_S


def test_nobody_forks_in_the_middle_of_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    importing, go_on = threading.Event(), threading.Event()
    imported: list[str] = []

    def slowly(name: str) -> None:
        importing.set()
        go_on.wait(DEADLINE_S)
        imported.append(name)

    monkeypatch.setattr(importlib, "import_module", slowly)
    monkeypatch.setattr(warmth, "FORK_PATIENCE_S", DEADLINE_S)
    warmth.warm_up(EntrySaved("0000000000", 1))
    assert not importing.is_set(), "it is for a worker that is ready"
    warming = threading.Thread(target=warmth.warm_up, args=(WorkerReady(1),))
    warming.start()
    assert importing.wait(DEADLINE_S)

    statuses: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0 if len(imported) == len(warmth.IMPORTED) and not warmth._importing.locked() else 1)
        statuses.append(os.waitpid(child, 0)[1])

    forking = threading.Thread(target=fork)
    forking.start()
    go_on.set()
    for thread in (warming, forking):
        thread.join(DEADLINE_S)
    assert statuses == [0] and not warmth._importing.locked()
