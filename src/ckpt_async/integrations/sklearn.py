"""scikit-learn: a loop of ``partial_fit`` over batches is saved every so many of them, and a retry goes on with the next batch.

```
fits = PartialFits(current.checkpoint, SGDClassifier(random_state=7), every=20)
for samples, labels in fits.remaining(batches):
    fits.model.partial_fit(samples, labels, classes=classes)
```
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import joblib

from ckpt_async.integrations.saver import Saver, fresh_folder, loaded_path
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument
from ckpt_async.words.names import DEFAULT_NAME

__all__ = ["PartialFits"]

Model = TypeVar("Model")
Batch = TypeVar("Batch")

MODEL_FILE = "model.joblib"
#: How many batches the model has seen, and the digest of its file.
PROGRESS_FILE = "progress.json"


class PartialFits(Generic[Model]):
    """A model, and how many batches it has seen.

    The model is written with `joblib`, as users of scikit-learn do it, which means with pickle: loading such a file executes what
    it says. Before that, its SHA-256 is compared with the one that was noted beside it, which finds damage, and no forgery: go on
    only from checkpoints in a datastore that you trust.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    model
        With which the first attempt begins; where a checkpoint was loaded, the model in that takes its place.
    every : int
        How many batches lie between two saves.
    name : str
        Of the checkpoints.

    Attributes
    ----------
    model
        What is to be fitted.
    batches : int
        That it has seen.

    Raises
    ------
    InvalidArgument
        The checkpoint that was loaded was not saved by this class, or holds a model of another class.
    CheckpointDamaged
        The file of the model is not what was saved.
    """

    def __init__(self, saver: Saver, model: Model, *, every: int = 1, name: str = DEFAULT_NAME) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidArgument("save partial fits", on=f"every={every!r}", cause="it is a number of batches, from 1 on")
        self._saver = saver
        self._every = every
        self._name = name
        self.model: Model = model
        self.batches = 0
        path = loaded_path(saver, PROGRESS_FILE, saved_by="PartialFits")
        if path is not None:
            self.model, self.batches = self._read(path, type(model))
        self._saved_batches = self.batches

    def remaining(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches that the model has not seen. After every so many, and after the last, the model is saved.

        Parameters
        ----------
        batches : iterable
            All batches, the same ones in the same order in each attempt.
        """
        for number, batch in enumerate(batches):
            if number < self.batches:
                continue
            yield batch
            self.batches += 1
            if self.batches % self._every == 0:
                self.save()
        if self.batches != self._saved_batches:
            self.save()

    def save(self) -> None:
        """Save now; called by `remaining` where it is time."""
        with fresh_folder(self._saver) as folder:
            path = os.path.join(folder, MODEL_FILE)
            joblib.dump(self.model, path)
            with open(os.path.join(folder, PROGRESS_FILE), "w", encoding="utf-8") as file:
                json.dump({"batches": self.batches, "sha256": _sha256(path)}, file)
            self._saver.save(folder, name=self._name, metadata={"batches": self.batches})
        self._saved_batches = self.batches

    def _read(self, progress: str, kind: type[Any]) -> tuple[Any, int]:
        path = os.path.join(os.path.dirname(progress), MODEL_FILE)
        attempted = "load a model"
        try:
            with open(progress, encoding="utf-8") as file:
                noted = json.load(file)
            batches, expected = int(noted["batches"]), str(noted["sha256"])
            found = _sha256(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointDamaged(attempted, on=path, cause=f"{type(error).__name__}: {error}") from error
        if found != expected:
            raise CheckpointDamaged(attempted, on=path, cause=f"its SHA-256 is {found} in place of {expected}")
        model = joblib.load(path)
        if type(model) is not kind:
            raise InvalidArgument(
                "go on from a checkpoint",
                on=path,
                cause=f"it holds a {type(model).__name__}, and a {kind.__name__} is to be fitted",
            )
        return model, batches


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
