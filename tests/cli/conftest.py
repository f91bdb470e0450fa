"""Places for the command line: a store with a task's checkpoints, and the program run in this process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ckpt_async import CheckpointRecord, Settings, StoreAddress, TaskIdentity, open_checkpointer, short_hash
from ckpt_async.cli.app import run_command_line
from ckpt_async.cli.desk import FlowPreset

PATHSPEC = "TrainFlow/12/train/34"


@dataclass(frozen=True)
class Answer:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Answer]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, in the test's folder, with the store there; nothing of this machine is seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "store").mkdir(exist_ok=True)
    monkeypatch.setenv("CKPT_ASYNC_STORE", "store")

    def act(*arguments: object, preset: FlowPreset | None = None) -> Answer:
        capsys.readouterr()
        code = run_command_line([str(argument) for argument in arguments], preset=preset)
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return act


def train(
    address: StoreAddress,
    folder: Path,
    *,
    run: str = "12",
    step: str = "train",
    task: str = "34",
    epochs: int = 3,
    attempt: int = 0,
) -> list[CheckpointRecord]:
    """Save as a training would, oldest first."""
    identity = TaskIdentity("TrainFlow", run, step, task, attempt, short_hash("user:ada"), short_hash(step))
    checkpointer = open_checkpointer(
        identity, address, Settings(worker="thread"), scratch_root=str(folder / "scratch"), say=lambda _: None
    )
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    saved = []
    try:
        for epoch in range(epochs):
            (model / "frozen.bin").write_bytes(bytes(range(256)) * 400)
            (model / "weights.bin").write_bytes(bytes([epoch, attempt]) * 60_000)
            if epoch:
                (model / f"epoch-{epoch}.json").write_text(json.dumps({"epoch": epoch}))
                (model / f"epoch-{epoch - 1}.json").unlink(missing_ok=True)
            name = "best" if epoch == 1 else "mfchckpt"
            reference = checkpointer.save(model, name=name, metadata={"epoch": epoch, "loss": round(1 / (epoch + 1), 3)})
            saved.append(CheckpointRecord.from_dict(dict(reference), source="save()"))
    finally:
        checkpointer.close(timeout_s=60)
    return saved


@pytest.fixture
def saved(run: Run, tmp_path: Path) -> list[CheckpointRecord]:
    """Three checkpoints of one task in the store, oldest first."""
    return train(StoreAddress(str(tmp_path / "store")), tmp_path)
