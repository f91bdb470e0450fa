"""Attempts of a task over the local datastore, for trainings that are broken off and resumed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_async import Checkpointer, StoreAddress
from ckpt_async.integrations.saver import EngineSaver
from tests.engine.desk import DEADLINE_S, Desk

# Before any framework is imported: threads of its own would only be in the way of the other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

#: What the test of an integration needs. CI has all of them: there a missing one is a failure.
_NEEDED = {
    "test_distributed.py": ("torch",),
    "test_flow.py": ("torch",),
    "test_huggingface.py": ("torch", "transformers", "accelerate"),
    "test_keras.py": ("torch", "keras"),
    "test_lightgbm.py": ("lightgbm",),
    "test_lightning.py": ("torch", "lightning"),
    "test_pytorch.py": ("torch",),
    "test_sklearn.py": ("sklearn", "joblib"),
    "test_xgboost.py": ("xgboost",),
}


def missing(file: str) -> list[str]:
    """The packages that the tests of a file need and that are not installed."""
    return [name for name in _NEEDED.get(file, ()) if importlib.util.find_spec(name) is None]


@pytest.hookimpl
def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what needs a package that is not here; CI has them all, and fails without one."""
    if collection_path.parent != Path(__file__).parent or os.environ.get("CI") == "true":
        return None
    return True if missing(collection_path.name) else None


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
