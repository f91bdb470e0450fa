"""Lightning: a callback that saves by itself, and a plugin that saves whatever `ModelCheckpoint` writes.

```
callback = CheckpointCallback(current.checkpoint, every_n_epochs=1)
Trainer(callbacks=[callback]).fit(model, data, ckpt_path=resume_path(current.checkpoint))
```

or, for those who keep `ModelCheckpoint`,

```
Trainer(plugins=[SavingCheckpointIO(current.checkpoint)], callbacks=[ModelCheckpoint(...), RandomNumbers()])
```
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from ckpt_async.integrations.pytorch import restore_rng_state, rng_state
from ckpt_async.integrations.saver import Saver, fresh_folder, loaded_path
from ckpt_async.words.errors import CheckpointError, InvalidArgument, SnapshotFailed
from ckpt_async.words.names import DEFAULT_NAME

__all__ = ["CheckpointCallback", "RandomNumbers", "SavingCheckpointIO", "resume_path"]

#: The callback's file in its checkpoint. The plugin's has the name that `ModelCheckpoint` gave it.
CALLBACK_FILE = "lightning.ckpt"


def resume_path(saver: Saver) -> str | None:
    """Return the path for ``Trainer.fit(ckpt_path=...)``; None where no checkpoint was loaded.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.

    Raises
    ------
    InvalidArgument
        The checkpoint was saved neither by the callback nor by the plugin.
    """
    noted = {} if saver.info is None else saver.info["metadata"]
    file = noted.get("file") if isinstance(noted, dict) else None
    # No path: what leads out of the folder was noted by somebody else.
    name = os.path.basename(file) if isinstance(file, str) else ""
    return loaded_path(saver, name or CALLBACK_FILE, saved_by="The callback or the plugin for Lightning")


class RandomNumbers(Callback):
    """Keeps the state of the random numbers in each checkpoint of Lightning, and restores it, so that the shuffled batches of the
    epochs to come, and what a dropout drops, are what they would have been.
    """

    def __init__(self) -> None:
        self._within_epoch = False
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning keeps for this callback."""
        return {"rng": rng_state(), "within_epoch": self._within_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what it has kept."""
        self._restored = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before Lightning makes the iterator of the epoch to come, which draws a number as that of any epoch does."""
        if self._restored is not None and not self._restored["within_epoch"]:
            self._restore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After it has made the iterator with which it goes on within an epoch: there that number had been drawn already."""
        self._restore()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the training is."""
        self._within_epoch = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the training is."""
        self._within_epoch = False

    def _restore(self) -> None:
        if self._restored is not None:
            restore_rng_state(self._restored["rng"])
            self._within_epoch = self._restored["within_epoch"]
            self._restored = None


class CheckpointCallback(RandomNumbers):
    """Saves the trainer's checkpoint after every so many epochs, steps, or both, beside whatever else saves.

    Random numbers are kept, as by `RandomNumbers`. Within an epoch, Lightning goes on with the right batch where the data loader
    has ``state_dict`` and ``load_state_dict``; else it warns.

    The metadata of a checkpoint are ``epoch``, ``step``, and the ``metrics`` that were logged.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    every_n_epochs : int
        0: not at the end of epochs.
    every_n_train_steps : int
        0: not between them.
    name : str
        Of the checkpoints.
    """

    def __init__(self, saver: Saver, *, every_n_epochs: int = 1, every_n_train_steps: int = 0, name: str = DEFAULT_NAME) -> None:
        for argument, value in (("every_n_epochs", every_n_epochs), ("every_n_train_steps", every_n_train_steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidArgument("save while training", on=f"{argument}={value!r}", cause="it is a number, from 0 on")
        if not every_n_epochs and not every_n_train_steps:
            raise InvalidArgument("save while training", on="every_n_epochs=0", cause="then nothing would ever be saved")
        super().__init__()
        self._saver = saver
        self._every_n_epochs = every_n_epochs
        self._every_n_train_steps = every_n_train_steps
        self._name = name
        self._saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count from here."""
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save, where it is time."""
        step = trainer.global_step
        # With accumulated gradients a step has several batches.
        if self._every_n_train_steps and step % self._every_n_train_steps == 0 and step != self._saved_step:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, where it is time."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._every_n_epochs and (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        # All processes take part in making a checkpoint; the first writes it, or all do, each a part.
        with fresh_folder(self._saver) if trainer.is_global_zero else nullcontext("") as folder:
            folder = trainer.strategy.broadcast(folder)
            trainer.save_checkpoint(os.path.join(folder, CALLBACK_FILE))
            if trainer.is_global_zero:
                metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
                metadata = {"epoch": trainer.current_epoch, "step": trainer.global_step, "metrics": metrics, "file": CALLBACK_FILE}
                self._saver.save(folder, name=self._name, metadata=metadata)


class SavingCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints as ever, though under another name first, so that no half one is ever there, and saves each.

    `ModelCheckpoint` may delete them when it likes (``save_top_k``): what is saved stays. The metadata of a checkpoint are
    ``epoch``, ``step``, and the name of the ``file``.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    name : str
        Of the checkpoints.
    """

    def __init__(self, saver: Saver, *, name: str = DEFAULT_NAME) -> None:
        super().__init__()
        self._saver = saver
        self._name = name

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None) -> None:
        """Write a checkpoint, and save it.

        Raises
        ------
        InvalidArgument
            There are `storage_options`: this writes to a local disk.
        CheckpointError
            It could not be written or saved.
        """
        path = os.path.abspath(os.fspath(path))
        if storage_options is not None:
            raise InvalidArgument("save a Lightning checkpoint", on="storage_options", cause="it is written to the local disk")
        written = f"{path}.part"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            torch.save(checkpoint, written)
            os.replace(written, path)
        except CheckpointError:
            raise
        except OSError as error:
            raise SnapshotFailed("write a Lightning checkpoint", on=path, cause=error.strerror or str(error)) from error
        metadata = {"epoch": checkpoint.get("epoch"), "step": checkpoint.get("global_step"), "file": os.path.basename(path)}
        self._saver.save(path, name=self._name, metadata=metadata)
