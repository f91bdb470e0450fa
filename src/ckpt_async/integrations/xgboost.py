"""XGBoost: the booster is saved every so many rounds, and a retry boosts the rounds that are left.

```
callback = CheckpointCallback(current.checkpoint, every=10)
booster = xgboost.train(params, data, callbacks=[callback], **callback.resume(100))
```
"""

from __future__ import annotations

import os
from typing import Any

import xgboost

from ckpt_async.integrations.boosting import check_every, remaining_rounds
from ckpt_async.integrations.saver import Saver, fresh_folder, loaded_path
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.names import DEFAULT_NAME

__all__ = ["CheckpointCallback"]

#: The file of the booster in its checkpoint.
MODEL_FILE = "model.ubj"


class CheckpointCallback(xgboost.callback.TrainingCallback):
    """Saves the booster after every so many rounds, and after the last.

    The metadata of a checkpoint are the number of ``rounds``, and the newest value of each metric by ``"data-metric"``.

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
        super().__init__()
        self._saver = saver
        self._every = check_every(every)
        self._name = name
        self._saved_rounds = 0
        self._metrics: dict[str, float] = {}

    def resume(self, num_boost_round: int) -> dict[str, Any]:
        """Return the arguments ``num_boost_round`` and ``xgb_model`` for ``xgboost.train``: what is left, and what to go on from.

        Parameters
        ----------
        num_boost_round : int
            How many rounds there are to be in all.

        Raises
        ------
        InvalidArgument
            The checkpoint was not saved by this callback, or has more rounds than that.
        """
        path = loaded_path(self._saver, MODEL_FILE, saved_by="The callback for XGBoost")
        if path is None:
            return {"num_boost_round": num_boost_round, "xgb_model": None}
        booster = xgboost.Booster(model_file=path)
        self._saved_rounds = booster.num_boosted_rounds()
        left = remaining_rounds(num_boost_round, self._saved_rounds, least=0)
        return {"num_boost_round": left, "xgb_model": booster}

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Save, where it is time."""
        if not isinstance(model, xgboost.Booster):
            raise InvalidArgument(
                "save while boosting", on="xgboost.cv", cause="there are several models", hint="Use it with xgboost.train."
            )
        for data, metrics in evals_log.items():
            for metric, values in metrics.items():
                self._metrics[f"{data}-{metric}"] = float(values[-1])
        if model.num_boosted_rounds() % self._every == 0:
            self._save(model)
        return False

    def after_training(self, model: Any) -> Any:
        """Save the last round."""
        if model.num_boosted_rounds() != self._saved_rounds:
            self._save(model)
        return model

    def _save(self, model: xgboost.Booster) -> None:
        self._saved_rounds = model.num_boosted_rounds()
        with fresh_folder(self._saver) as folder:
            model.save_model(os.path.join(folder, MODEL_FILE))
            metadata = {"rounds": self._saved_rounds, "metrics": dict(self._metrics)}
            self._saver.save(folder, name=self._name, metadata=metadata)
