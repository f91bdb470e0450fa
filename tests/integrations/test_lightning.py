"""Lightning: a training that was broken off and resumed ends with the weights of an undisturbed one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ckpt_async import InvalidArgument
from ckpt_async.integrations.lightning import CheckpointCallback, RandomNumbers, SavingCheckpointIO, resume_path
from ckpt_async.integrations.saver import EngineSaver
from tests.integrations.conftest import Attempts, Crash

pytestmark = [
    pytest.mark.slow,
    # Lightning's own use of PyTorch, and its advice.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]

EPOCHS = 3
BATCHES = 4


class Model(lightning.LightningModule):
    """A tiny one, with random numbers in each step; may break off."""

    def __init__(self, crash_at: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
        self.crash_at = crash_at
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == self.crash_at:
            raise Crash
        loss = self.layers(batch[0]).pow(2).mean()
        self.log("loss", loss)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def shuffled() -> torch.utils.data.DataLoader[Any]:
    samples = torch.randn(BATCHES * 2, 4, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(samples), batch_size=2, shuffle=True)


class Resumable:
    """A loader that can go on within an epoch."""

    def __init__(self) -> None:
        self._next = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        # Lightning does not ask for what comes after the last batch.
        self._next %= BATCHES
        while self._next < BATCHES:
            self._next += 1
            yield [torch.randn(2, 4, generator=torch.Generator().manual_seed(self._next))]

    def state_dict(self) -> dict[str, int]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._next = state["next"]


def train(saver: EngineSaver, folder: Path, *, crash_at: int = -1, loader: Any, **how: Any) -> Model:
    lightning.seed_everything(5, verbose=False)
    model = Model(crash_at)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **how,
    )
    trainer.fit(model, loader, ckpt_path=resume_path(saver))
    return model


def same(one: Model, other: Model) -> bool:
    others = other.state_dict()
    return all(torch.equal(weights, others[name]) for name, weights in one.state_dict().items())


@pytest.mark.parametrize(
    ("make_loader", "every"),
    [
        (shuffled, {"every_n_epochs": 1}),
        (Resumable, {"every_n_epochs": 0, "every_n_train_steps": 1}),
    ],
    ids=["between epochs", "within an epoch"],
)
def test_the_callback_resumes_as_if_nothing_had_happened(
    make_attempts: Callable[..., Attempts], tmp_path: Path, make_loader: Callable[[], Any], every: dict[str, int]
) -> None:
    def attempt(attempts: Attempts, crash_at: int = -1) -> Model:
        saver = attempts.begin()
        callbacks = [CheckpointCallback(saver, **every)]
        return train(saver, tmp_path, crash_at=crash_at, loader=make_loader(), callbacks=callbacks, enable_checkpointing=False)

    undisturbed, broken = make_attempts(), make_attempts()
    expected = attempt(undisturbed)
    undisturbed.end()
    with pytest.raises(Crash):
        attempt(broken, crash_at=6)
    found = attempt(broken)
    broken.end()
    assert found.losses == expected.losses[-len(found.losses) :]
    assert len(found.losses) == (8 if every["every_n_epochs"] else 6)
    assert same(found, expected)
    assert broken.stored("step") == undisturbed.stored("step")
    assert undisturbed.stored("metrics")[-1]["loss"] == pytest.approx(expected.losses[-1])


def test_the_plugin_saves_what_model_checkpoint_writes(make_attempts: Callable[..., Attempts], tmp_path: Path) -> None:
    def attempt(attempts: Attempts, folder: Path, crash_at: int = -1) -> Model:
        saver = attempts.begin()
        # The newest alone stays on the disk.
        keeps = ModelCheckpoint(dirpath=folder, every_n_train_steps=1, filename="{step}", save_top_k=1, monitor="step", mode="max")
        how = {"plugins": [SavingCheckpointIO(saver)], "callbacks": [keeps, RandomNumbers()]}
        return train(saver, folder, crash_at=crash_at, loader=Resumable(), **how)

    # With the guard of links, as in a task: a file that was saved is deleted as soon as the next is written.
    undisturbed, broken = make_attempts(), make_attempts("process")
    expected = attempt(undisturbed, tmp_path / "undisturbed")
    undisturbed.end()
    with pytest.raises(Crash):
        attempt(broken, tmp_path / "broken", crash_at=6)
    found = attempt(broken, tmp_path / "resumed")
    broken.end()
    assert undisturbed.stored("step")[: EPOCHS * BATCHES] == list(range(1, EPOCHS * BATCHES + 1))
    assert os.listdir(tmp_path / "resumed") == [f"step={EPOCHS * BATCHES}.ckpt"]
    assert found.losses == expected.losses[6:]
    assert same(found, expected)


def test_what_makes_no_sense_is_refused(attempts: Attempts, tmp_path: Path) -> None:
    saver = attempts.begin()
    assert resume_path(saver) is None
    for wrong in ({"every_n_epochs": 0}, {"every_n_epochs": -1}, {"every_n_train_steps": True}):
        with pytest.raises(InvalidArgument, match="every_n"):
            CheckpointCallback(saver, **wrong)
    with pytest.raises(InvalidArgument, match="storage_options"):
        SavingCheckpointIO(saver).save_checkpoint({}, tmp_path / "x.ckpt", storage_options={})
    saver.save(attempts.desk.tree(), metadata={"file": "../../etc/passwd"})
    with pytest.raises(InvalidArgument, match="no passwd"):
        resume_path(attempts.begin())
