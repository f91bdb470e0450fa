"""XGBoost: boosting that was broken off and resumed gives the booster of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import xgboost

from ckpt_async import InvalidArgument
from ckpt_async.integrations.saver import EngineSaver
from ckpt_async.integrations.xgboost import CheckpointCallback
from tests.integrations.conftest import Attempts, Crash

ROUNDS = 9
PARAMETERS = {"max_depth": 3, "nthread": 1, "tree_method": "hist", "seed": 5, "objective": "reg:squarederror"}


class CrashAfter(xgboost.callback.TrainingCallback):
    """Breaks off when so many rounds are done."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self._rounds = rounds

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if model.num_boosted_rounds() == self._rounds:
            raise Crash
        return False


def data() -> xgboost.DMatrix:
    random = numpy.random.default_rng(1)
    samples = random.normal(size=(200, 5))
    return xgboost.DMatrix(samples, samples[:, 0] * samples[:, 1] + samples[:, 2], nthread=1)


def train(saver: EngineSaver, *, crash_after: int = 0) -> xgboost.Booster:
    callback = CheckpointCallback(saver, every=2)
    watched = data()
    return xgboost.train(
        PARAMETERS,
        watched,
        callbacks=[callback, CrashAfter(crash_after)],
        evals=[(watched, "train")],
        verbose_eval=False,
        **callback.resume(ROUNDS),
    )


def test_resumed_boosting_gives_the_booster_of_an_undisturbed_one(make_attempts: Callable[..., Attempts]) -> None:
    undisturbed, broken = make_attempts(), make_attempts()
    expected = train(undisturbed.begin())
    undisturbed.end()
    with pytest.raises(Crash):
        train(broken.begin(), crash_after=5)
    found = train(broken.begin())
    assert found.num_boosted_rounds() == ROUNDS
    # Trees, and what they predict, in every bit.
    assert found.get_dump(with_stats=True) == expected.get_dump(with_stats=True)
    assert found.predict(data()).tobytes() == expected.predict(data()).tobytes()
    # A retry after the last round boosts no more.
    again = train(broken.begin())
    broken.end()
    assert again.get_dump() == expected.get_dump()
    assert broken.stored("rounds") == undisturbed.stored("rounds") == [2, 4, 6, 8, 9]
    assert broken.stored("metrics") == undisturbed.stored("metrics")
    assert undisturbed.stored("metrics")[0].keys() == {"train-rmse"}


def test_what_makes_no_sense_is_refused(attempts: Attempts) -> None:
    saver = attempts.begin()
    with pytest.raises(InvalidArgument, match="every"):
        CheckpointCallback(saver, every=0)
    with pytest.raises(InvalidArgument, match=r"Use it with xgboost\.train"):
        xgboost.cv(PARAMETERS, data(), num_boost_round=1, callbacks=[CheckpointCallback(saver)])
    train(saver)
    with pytest.raises(InvalidArgument, match="has 9 rounds already"):
        CheckpointCallback(attempts.begin()).resume(8)
