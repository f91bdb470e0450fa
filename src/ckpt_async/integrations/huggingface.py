"""Hugging Face `Trainer`: each checkpoint folder that it writes is saved whole, and a retry goes on from the newest.

```
callback = CheckpointCallback(current.checkpoint)
trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
trainer.train(resume_from_checkpoint=callback.resume_from_checkpoint())
```
"""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ckpt_async.integrations.saver import Saver, loaded_path
from ckpt_async.words.names import DEFAULT_NAME

__all__ = ["CheckpointCallback"]

#: In each checkpoint folder of a `Trainer`; it goes on from the step that stands there.
STATE_FILE = "trainer_state.json"


class CheckpointCallback(TrainerCallback):
    """Saves what the `Trainer` has just written: model, optimizer, scheduler, random numbers, and how far it is.

    When it does is a matter of its arguments (``save_strategy``, ``save_steps``). It may delete the folder right afterwards, as
    ``save_total_limit`` has it do: what is saved stays. The metadata of a checkpoint are ``step``, ``epoch``, and the newest of the
    numbers that were logged under ``metrics``.

    Of several processes that train together, which all have the callback, the first saves, once all have written their files.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    name : str
        Of the checkpoints.
    """

    def __init__(self, saver: Saver, *, name: str = DEFAULT_NAME) -> None:
        self._saver = saver
        self._name = name

    def resume_from_checkpoint(self) -> str | None:
        """Return the folder for ``Trainer.train(resume_from_checkpoint=...)``; None where no checkpoint was loaded.

        Raises
        ------
        InvalidArgument
            The checkpoint was not saved by this callback.
        """
        found = loaded_path(self._saver, STATE_FILE, saved_by="The callback for the Trainer")
        return None if found is None else os.path.dirname(found)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the folder that was just written."""
        if args.world_size > 1:
            # Each process has written its random numbers, and perhaps its part of the weights, into the same folder.
            from accelerate import PartialState

            PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        assert args.output_dir is not None, "a Trainer has none without"
        folder = os.path.join(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        metadata = {"step": state.global_step, "epoch": state.epoch, "metrics": _newest_numbers(state.log_history)}
        self._saver.save(folder, name=self._name, metadata=metadata)


def _newest_numbers(log: list[dict[str, Any]]) -> dict[str, float]:
    newest = {name: value for line in log for name, value in line.items() if name not in ("step", "epoch")}
    return {name: float(value) for name, value in newest.items() if isinstance(value, (int, float))}
