"""scikit-learn: partial fits that were broken off go on with the next batch."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB

from ckpt_async import CheckpointDamaged, InvalidArgument
from ckpt_async.integrations.saver import EngineSaver
from ckpt_async.integrations.sklearn import PartialFits
from tests.integrations.conftest import Attempts, Crash

BATCHES = 7


def batches() -> list[tuple[numpy.ndarray, numpy.ndarray]]:
    random = numpy.random.default_rng(1)
    samples = [random.normal(size=(20, 4)) for _ in range(BATCHES)]
    return [(one, (one[:, 0] + one[:, 1] > 0).astype(int)) for one in samples]


def fit(saver: EngineSaver, *, crash_after: int = 0) -> SGDClassifier:
    fits = PartialFits(saver, SGDClassifier(random_state=7), every=2)
    for samples, labels in fits.remaining(batches()):
        fits.model.partial_fit(samples, labels, classes=[0, 1])
        if fits.batches + 1 == crash_after:
            raise Crash
    assert fits.batches == BATCHES
    return fits.model


def test_partial_fits_go_on_with_the_next_batch(make_attempts: Callable[..., Attempts]) -> None:
    undisturbed, broken = make_attempts(), make_attempts()
    expected = fit(undisturbed.begin())
    undisturbed.end()
    with pytest.raises(Crash):
        fit(broken.begin(), crash_after=5)
    found = fit(broken.begin())
    assert found.coef_.tobytes() == expected.coef_.tobytes() and found.t_ == expected.t_
    # After the last batch nothing is left.
    again = fit(broken.begin())
    broken.end()
    assert again.coef_.tobytes() == expected.coef_.tobytes()
    assert broken.stored("batches") == undisturbed.stored("batches") == [2, 4, 6, 7]


def test_nothing_is_loaded_that_was_not_saved_here(attempts: Attempts) -> None:
    fit(attempts.begin())
    saver = attempts.begin()
    with pytest.raises(InvalidArgument, match="it holds a SGDClassifier, and a GaussianNB is to be fitted"):
        PartialFits(saver, GaussianNB())
    path = os.path.join(saver.directory, "model.joblib")
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"!")
    with pytest.raises(CheckpointDamaged, match="its SHA-256 is"):
        PartialFits(saver, SGDClassifier())
    with open(os.path.join(saver.directory, "progress.json"), "w") as file:
        file.write("{}")
    with pytest.raises(CheckpointDamaged, match="KeyError"):
        PartialFits(saver, SGDClassifier())
    with pytest.raises(InvalidArgument, match="every"):
        PartialFits(saver, SGDClassifier(), every=0)
