"""Keras 3 with the PyTorch backend: the weights, the optimizer and the place in the training are saved, and a retry goes on there.

```
model.fit(samples, labels, epochs=10, callbacks=[CheckpointCallback(current.checkpoint)])
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import torch

from ckpt_async.integrations.pytorch import restore_rng_state, rng_state
from ckpt_async.integrations.saver import Saver, fresh_folder, loaded_path
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.names import DEFAULT_NAME

__all__ = ["CheckpointCallback"]

#: Weights of the model, of its optimizer, and what its layers keep, for ``model.load_weights()``.
WEIGHTS_FILE = "model.weights.h5"
#: Where the training is, with the random numbers and the metrics of the epoch so far.
PROGRESS_FILE = "progress.pt"


class CheckpointCallback(keras.callbacks.Callback):
    """Saves the training at the end of each epoch, or after every so many batches, and resumes it when ``fit`` begins.

    A resumed ``fit`` begins with the epoch that it was in, whatever its ``initial_epoch``. In the middle of an epoch it asks once
    more for the batches that it has trained on, and passes them by: shuffled ones come in the same order, since the random numbers
    are restored. Other callbacks see these batches too. Data that is not the same each time is trained on from another place.

    The metadata of a checkpoint are ``epoch`` and ``batch``, which count what is done, and ``metrics``.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    every : int, optional
        How many batches lie between two saves. Default: it saves at the end of each epoch, after the validation.
    name : str
        Of the checkpoints.

    Raises
    ------
    InvalidArgument
        Keras runs on another backend.
    """

    def __init__(self, saver: Saver, *, every: int | None = None, name: str = DEFAULT_NAME) -> None:
        super().__init__()
        if (backend := keras.backend.backend()) != "torch":
            raise InvalidArgument("save a Keras training", on=f"the backend {backend}", cause="only that of PyTorch is supported")
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise InvalidArgument("save a Keras training", on=f"every={every!r}", cause="it is a number of batches, from 1 on")
        self._saver = saver
        self._every = every
        self._name = name
        self._begun = False
        self._epoch = 0
        self._batches = 0
        self._epoch_rng: dict[str, Any] = {}
        #: What is resumed, until the last batch that it has been trained on has passed by.
        self._resumed: dict[str, Any] | None = None
        self._train: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Load what was saved; once, though a model may be trained more than once."""
        path = None if self._begun else loaded_path(self._saver, PROGRESS_FILE, saved_by="The callback for Keras")
        self._begun = True
        if path is None:
            return
        model = self.model
        if model.optimizer is not None and not model.optimizer.built:
            # What has not been made can't be loaded into.
            model.optimizer.build(model.trainable_variables)
        model.load_weights(os.path.join(os.path.dirname(path), WEIGHTS_FILE))
        self._resumed = torch.load(path, weights_only=True)
        self._batches = self._resumed["batches"]
        # This is how Keras's own BackupAndRestore has `fit` begin with a later epoch.
        model._initial_epoch = self._resumed["epoch"]

    def on_train_end(self, logs: Any = None) -> None:
        """Another ``fit`` of the model begins anew."""
        self.model._initial_epoch = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the batches of the epoch are shuffled."""
        self._epoch = epoch
        resumed = self._resumed
        if resumed is None:
            self._epoch_rng = rng_state()
            return
        self._epoch_rng = resumed["epoch_rng"]
        restore_rng_state(self._epoch_rng)
        if resumed["batch"]:
            self._restore_metrics(resumed["metrics"])
            self._pass_batches_by()
        else:
            self._resumed = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save, where it is time."""
        if self._resumed is not None:
            if batch + 1 == self._resumed["batch"]:
                self._go_on()
            return
        self._batches += 1
        if self._every is not None and self._batches % self._every == 0:
            self._save(self._epoch, batch + 1, self._epoch_rng, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save, where it is time."""
        if self._every is None:
            self._save(epoch + 1, 0, rng_state(), logs)

    def _pass_batches_by(self) -> None:
        """`fit` calls the training function for each batch: let it do nothing for a while."""
        self._train = self.model.train_function
        self.model.train_function = lambda *_: self.model.get_metrics_result()

    def _go_on(self) -> None:
        assert self._resumed is not None
        self.model.train_function = self._train
        restore_rng_state(self._resumed["rng"])
        self._resumed = None

    def _restore_metrics(self, saved: list[list[torch.Tensor]]) -> None:
        for metric, values in zip(self.model.metrics, saved, strict=True):
            for variable, value in zip(metric.variables, values, strict=True):
                variable.assign(value)

    def _save(self, epoch: int, batch: int, epoch_rng: dict[str, Any], logs: Mapping[str, Any] | None) -> None:
        metrics = [[variable.value.detach().cpu() for variable in metric.variables] for metric in self.model.metrics]
        progress = {
            "epoch": epoch,
            "batch": batch,
            "batches": self._batches,
            "epoch_rng": epoch_rng,
            "rng": rng_state(),
            "metrics": metrics,
        }
        with fresh_folder(self._saver) as folder:
            self.model.save_weights(os.path.join(folder, WEIGHTS_FILE))
            torch.save(progress, os.path.join(folder, PROGRESS_FILE))
            numbers = {name: float(value) for name, value in (logs or {}).items()}
            self._saver.save(folder, name=self._name, metadata={"epoch": epoch, "batch": batch, "metrics": numbers})
