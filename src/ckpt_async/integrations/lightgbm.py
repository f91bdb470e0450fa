"""LightGBM: the booster is saved every so many rounds, and a retry boosts the rounds that are left.

```
callback = CheckpointCallback(current.checkpoint, every=10)
booster = lightgbm.train(params, data, callbacks=[callback], **callback.resume(100))
```
"""

from __future__ import annotations

import os
from typing import Any

import lightgbm

from ckpt_async.integrations.boosting import check_every, remaining_rounds
from ckpt_async.integrations.saver import Saver, fresh_folder, loaded_path
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.names import DEFAULT_NAME

__all__ = ["CheckpointCallback"]

#: The file of the booster in its checkpoint.
MODEL_FILE = "model.txt"


class CheckpointCallback:
    """Saves the booster after every so many rounds, but for the last: LightGBM goes on from a model only where a round is left, and
    what the last round makes is what ``lightgbm.train`` returns.

    The metadata of a checkpoint are the number of ``rounds``, and the value of each metric by ``"data-metric"``.

    Parameters
    ----------
    saver : Saver
        `current.checkpoint`, for example.
    every : int
        How many rounds lie between two saves.
    name : str
        Of the checkpoints.
    """

    def __init__(self, saver: Saver, *, every: int = 10, name: str = DEFAULT_NAME) -> None:
        self._saver = saver
        self._every = check_every(every)
        self._name = name
        # After LightGBM's own callbacks for printing and recording, before that for early stopping.
        self.order = 25
        self.before_iteration = False

    def resume(self, num_boost_round: int) -> dict[str, Any]:
        """Return the arguments ``num_boost_round`` and ``init_model`` for ``lightgbm.train``: what is left, and what to go on from.

        Parameters
        ----------
        num_boost_round : int
            How many rounds there are to be in all.

        Raises
        ------
        InvalidArgument
            The checkpoint was not saved by this callback, or leaves no round of that many.
        """
        path = loaded_path(self._saver, MODEL_FILE, saved_by="The callback for LightGBM")
        if path is None:
            return {"num_boost_round": num_boost_round, "init_model": None}
        booster = lightgbm.Booster(model_file=path)
        left = remaining_rounds(num_boost_round, booster.current_iteration(), least=1)
        return {"num_boost_round": left, "init_model": booster}

    def __call__(self, env: lightgbm.callback.CallbackEnv) -> None:
        """Save, where it is time."""
        model = env.model
        if not isinstance(model, lightgbm.Booster):
            raise InvalidArgument(
                "save while boosting", on="lightgbm.cv", cause="there are several models", hint="Use it with lightgbm.train."
            )
        rounds = env.iteration + 1
        if rounds % self._every or rounds == env.end_iteration:
            return
        metrics = {f"{data}-{metric}": float(value) for data, metric, value, *_ in env.evaluation_result_list or ()}
        with fresh_folder(self._saver) as folder:
            model.save_model(os.path.join(folder, MODEL_FILE), num_iteration=-1)
            self._saver.save(folder, name=self._name, metadata={"rounds": rounds, "metrics": metrics})
