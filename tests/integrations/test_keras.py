"""Keras: a training that was broken off and resumed ends with the weights and the metrics of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy
import pytest

from ckpt_async import InvalidArgument
from ckpt_async.integrations.keras import CheckpointCallback
from ckpt_async.integrations.saver import EngineSaver
from tests.integrations.conftest import Attempts, Crash

pytestmark = [
    pytest.mark.slow,
    # How Keras hands its variables to NumPy when it writes them.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

EPOCHS = 3
BATCHES = 4


class CrashAt(keras.callbacks.Callback):
    """Breaks off after a batch of the training; the callbacks before this one have seen its end."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._left = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash


def train(saver: EngineSaver, *, every: int | None, crash_after: int = 0) -> tuple[list[numpy.ndarray], dict[str, list[float]]]:
    """Train on shuffled batches with a dropout; returns the weights, and the metrics of the epochs."""
    keras.utils.set_random_seed(4)
    samples = numpy.random.default_rng(1).normal(size=(BATCHES * 4, 5)).astype("float32")
    layers = [keras.layers.Dense(6, activation="relu"), keras.layers.Dropout(0.4), keras.layers.Dense(1)]
    model = keras.Sequential([keras.layers.Input((5,)), *layers])
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse", metrics=["mae"])
    callbacks = [CheckpointCallback(saver, every=every), CrashAt(crash_after)]
    history = model.fit(samples, samples.sum(axis=1), batch_size=4, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return model.get_weights(), history.history


@pytest.mark.parametrize("every", [None, 1, 3], ids=["epochs", "batches", "some batches"])
def test_a_resumed_training_ends_as_an_undisturbed_one(make_attempts: Callable[..., Attempts], every: int | None) -> None:
    undisturbed, broken = make_attempts(), make_attempts()
    weights, metrics = train(undisturbed.begin(), every=every)
    undisturbed.end()
    with pytest.raises(Crash):
        train(broken.begin(), every=every, crash_after=6)
    found_weights, found_metrics = train(broken.begin(), every=every)
    broken.end()
    assert len(found_weights) == len(weights)
    assert all(found.tobytes() == expected.tobytes() for found, expected in zip(found_weights, weights, strict=True))
    # Those of the epoch that was broken off, and of the one after it.
    assert found_metrics == {name: values[1:] for name, values in metrics.items()}
    for field in ("epoch", "batch", "metrics"):
        assert broken.stored(field) == undisturbed.stored(field)
    expected = {None: [(1, 0), (2, 0), (3, 0)], 3: [(0, 3), (1, 2), (2, 1), (2, 4)]}
    if every in expected:
        assert list(zip(broken.stored("epoch"), broken.stored("batch"), strict=True)) == expected[every]


def test_what_makes_no_sense_is_refused(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = attempts.begin()
    with pytest.raises(InvalidArgument, match="every"):
        CheckpointCallback(saver, every=0)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InvalidArgument, match="only that of PyTorch"):
        CheckpointCallback(saver)
