"""LightGBM: boosting that was broken off and resumed gives the booster of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy
import pytest

from ckpt_async import InvalidArgument
from ckpt_async.integrations.lightgbm import CheckpointCallback
from ckpt_async.integrations.saver import EngineSaver
from tests.integrations.conftest import Attempts, Crash

ROUNDS = 9
PARAMETERS = {"objective": "regression", "num_threads": 1, "deterministic": True, "verbose": -1, "num_leaves": 7, "seed": 5}


def data() -> lightgbm.Dataset:
    random = numpy.random.default_rng(1)
    samples = random.normal(size=(200, 5))
    labels = samples[:, 0] * samples[:, 1] + samples[:, 2]
    return lightgbm.Dataset(samples, labels, free_raw_data=False, params={"verbose": -1})


def train(saver: EngineSaver, *, crash_after: int = 0) -> lightgbm.Booster:
    def crash(env: Any) -> None:
        if env.iteration + 1 == crash_after:
            raise Crash

    callback = CheckpointCallback(saver, every=2)
    watched = data()
    return lightgbm.train(
        PARAMETERS, watched, valid_sets=[watched], valid_names=["train"], callbacks=[callback, crash], **callback.resume(ROUNDS)
    )


def trees(booster: lightgbm.Booster) -> str:
    """The trees as text, every number in full; the parameters after them tell how many rounds were asked for."""
    return booster.model_to_string().partition("\nparameters:")[0]


def test_resumed_boosting_gives_the_booster_of_an_undisturbed_one(make_attempts: Callable[..., Attempts]) -> None:
    undisturbed, broken = make_attempts(), make_attempts()
    expected = train(undisturbed.begin())
    undisturbed.end()
    with pytest.raises(Crash):
        train(broken.begin(), crash_after=5)
    found = train(broken.begin())
    assert found.current_iteration() == ROUNDS
    assert trees(found) == trees(expected)
    # After the last save, a round at least is left.
    again = train(broken.begin())
    broken.end()
    assert trees(again) == trees(expected)
    assert broken.stored("rounds") == undisturbed.stored("rounds") == [2, 4, 6, 8]
    assert broken.stored("metrics") == undisturbed.stored("metrics")
    assert undisturbed.stored("metrics")[0].keys() == {"train-l2"}


def test_what_makes_no_sense_is_refused(attempts: Attempts) -> None:
    saver = attempts.begin()
    with pytest.raises(InvalidArgument, match="every"):
        CheckpointCallback(saver, every=True)
    with pytest.raises(InvalidArgument, match=r"Use it with lightgbm\.train"):
        lightgbm.cv(PARAMETERS, data(), num_boost_round=2, stratified=False, callbacks=[CheckpointCallback(saver, every=1)])
    train(saver)
    with pytest.raises(InvalidArgument, match="has 8 rounds already"):
        CheckpointCallback(attempts.begin()).resume(8)
