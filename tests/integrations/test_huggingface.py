"""Hugging Face: a training that was broken off and resumed ends with the weights and the losses of an undisturbed one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from ckpt_async import InvalidArgument
from ckpt_async.integrations.huggingface import CheckpointCallback
from ckpt_async.integrations.saver import EngineSaver
from tests.integrations.conftest import Attempts, Crash

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_bars")]


class CrashAt(TrainerCallback):
    """Breaks off at the end of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise Crash


def train(saver: EngineSaver, output: Path, *, crash_at: int = 0) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train for two epochs of four steps; returns the weights, and the loss of each step."""
    torch.manual_seed(11)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
    tokens = torch.randint(0, 32, (8, 6), generator=torch.Generator().manual_seed(1))
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=2,
        num_train_epochs=2,
        learning_rate=0.01,
        logging_steps=1,
        save_steps=1,
        save_total_limit=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=3,
    )
    callback = CheckpointCallback(saver)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[callback, CrashAt(crash_at)],
    )
    trainer.train(resume_from_checkpoint=callback.resume_from_checkpoint())
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {name: weights.clone() for name, weights in model.state_dict().items()}, losses


def test_a_resumed_training_ends_as_an_undisturbed_one(make_attempts: Callable[..., Attempts], tmp_path: Path) -> None:
    # With the guard of links, as in a task: the folders that are saved are deleted by the Trainer at once.
    undisturbed, broken = make_attempts(), make_attempts("process")
    weights, losses = train(undisturbed.begin(), tmp_path / "undisturbed")
    undisturbed.end()
    assert len(losses) == 8
    with pytest.raises(Crash):
        # In the middle of the second epoch, before the save of that step.
        train(broken.begin(), tmp_path / "broken", crash_at=6)
    found_weights, found_losses = train(broken.begin(), tmp_path / "resumed")
    broken.end()
    assert found_losses == losses
    assert found_weights.keys() == weights.keys()
    assert all(torch.equal(found_weights[name], weights[name]) for name in weights)
    assert broken.stored("step") == undisturbed.stored("step") == list(range(1, 9))
    assert [metrics["loss"] for metrics in broken.stored("metrics")] == losses
    assert os.listdir(tmp_path / "resumed") == ["checkpoint-8"]
    assert "optimizer.pt" in broken.desk.content(broken.desk.records()[-1])


def test_a_checkpoint_of_something_else_is_refused(attempts: Attempts) -> None:
    saver = attempts.begin()
    assert CheckpointCallback(saver).resume_from_checkpoint() is None
    saver.save(attempts.desk.tree())
    with pytest.raises(InvalidArgument, match="trainer_state"):
        CheckpointCallback(attempts.begin()).resume_from_checkpoint()
