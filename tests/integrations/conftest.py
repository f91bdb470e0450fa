"""Attempts of a task over the local datastore, for trainings that are broken off and resumed."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckpt_async import Checkpointer, StoreAddress
from ckpt_async.integrations.saver import EngineSaver
from tests.engine.desk import DEADLINE_S, Desk
from tests.integrations.frameworks import IN_PROCESSES_OF_THEIR_OWN

# Before any framework is imported: many threads would only be in the way of the other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

HERE = Path(__file__).parent


@pytest.hookimpl
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the tests that import a framework to ``test_frameworks.py``, which names them, unless somebody else does.

    Every process that shares the tests would import all frameworks otherwise, and keep their threads and their memory.
    """
    if collection_path.parent != HERE or collection_path.name not in IN_PROCESSES_OF_THEIR_OWN:
        return None
    named = (Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args)
    return None if collection_path in named else True


@pytest.fixture
def no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress bars without a thread of their own, which would live as long as the process."""
    if importlib.util.find_spec("tqdm") is not None:
        import tqdm

        monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


class Crash(Exception):
    """What breaks a training off."""


class Attempts:
    """Attempts of one task, one after another: each goes on from what the one before it has saved.

    Attributes
    ----------
    checkpointer : Checkpointer
        Of the attempt that runs.
    """

    checkpointer: Checkpointer

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self._folder = folder
        self._next = 0

    def begin(self, **settings: object) -> EngineSaver:
        """Begin the next attempt, after the end of the one before it."""
        self.end()
        self.checkpointer = self.desk.open(self._next, **settings)
        self._next += 1
        return EngineSaver(self.checkpointer, self._folder / f"attempt-{self._next}")

    def end(self) -> None:
        """End the attempt that runs, as the end of a step does."""
        if self._next:
            self.checkpointer.close(timeout_s=DEADLINE_S)

    def stored(self, field: str) -> list[object]:
        """A field of the metadata of all that is stored, oldest first."""
        return [record.metadata[field] for record in reversed(self.desk.records())]


@pytest.fixture
def make_attempts(tmp_path: Path) -> Iterator[Callable[..., Attempts]]:
    """Make tasks, each with a store of its own."""
    desks: list[Desk] = []

    def make(worker: str = "thread") -> Attempts:
        folder = tmp_path / f"task-{len(desks)}"
        (folder / "store").mkdir(parents=True)
        desks.append(Desk(folder, StoreAddress(str(folder / "store")), worker))
        return Attempts(desks[-1], folder)

    yield make
    for desk in desks:
        desk.end()


@pytest.fixture
def attempts(make_attempts: Callable[..., Attempts]) -> Attempts:
    """A task."""
    return make_attempts()


class Held:
    """A saver whose saves stand still until they may go on."""

    def __init__(self, saver: EngineSaver) -> None:
        self._saver = saver
        self.go_on = threading.Event()

    def save(self, *arguments: Any, **options: Any) -> Any:
        assert self.go_on.wait(DEADLINE_S)
        return self._saver.save(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._saver, name)


@pytest.fixture
def held(attempts: Attempts) -> Iterator[Held]:
    """The saver of the first attempt."""
    held = Held(attempts.begin())
    yield held
    held.go_on.set()
