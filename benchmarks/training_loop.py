"""A training loop that goes on while a checkpoint is uploaded; for ``training.py``, which starts it with one JSON object.

Three windows: undisturbed, while the upload runs, undisturbed again. Prints how the second one compares, as JSON. Runs with any
Python that has the loop's library and the uploader's.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import client

WARM_UP_S = 0.5
OPEN_TIMEOUT_S = 30.0

Step = Callable[[], object]
#: Starts the upload; whether it has ended; ends what carried it.
Uploader = tuple[Callable[[], None], Callable[[], bool], Callable[[], None]]


def python_step() -> Step:
    def step() -> int:
        total = 0
        for number in range(20_000):
            total += number & 7
        return total

    return step


def numpy_step() -> Step:
    import numpy as np

    rng = np.random.default_rng(7)
    weights, samples = rng.random((384, 384), dtype=np.float32), rng.random((384, 384), dtype=np.float32)

    def step() -> object:
        return np.tanh(samples @ weights).sum(axis=0).argmax()

    return step


def torch_step() -> Step:
    import torch

    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 512), torch.nn.Linear(512, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    samples = torch.randn(64, 256)

    def step() -> object:
        loss = model(samples).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def nobody(spec: dict[str, Any]) -> Uploader:
    """The upload window is one more undisturbed window."""
    ends_s = [0.0]

    def start() -> None:
        ends_s[0] = time.perf_counter() + spec["window_s"]

    return start, lambda: time.perf_counter() >= ends_s[0], lambda: None


def ours(spec: dict[str, Any]) -> Uploader:
    import threading

    from ckpt_async import EntryCommitted, Settings, open_checkpointer
    from ckpt_async.words.events import WorkerReady

    ready, stored = threading.Event(), threading.Event()

    def hear(event: object) -> None:
        if isinstance(event, WorkerReady):
            ready.set()
        elif isinstance(event, EntryCommitted):
            stored.set()

    settings = Settings(async_upload=True, worker=spec["worker"])
    opened = open_checkpointer(
        client._identity(spec), client._address(), settings, scratch_root=spec["scratch"], say=lambda line: None
    )
    opened.add_listener(hear)
    # As in a training, whose first save comes long after its start.
    if not ready.wait(OPEN_TIMEOUT_S):
        raise RuntimeError("the worker does not start")
    return lambda: opened.save(spec["folder"]) and None, stored.is_set, lambda: opened.close(timeout_s=60.0)


def pool(prepare: Callable[[dict[str, Any]], Callable[[], Any]]) -> Callable[[dict[str, Any]], Uploader]:
    """`ThreadPoolExecutor(1).submit(save)`: what people write by hand."""

    def make(spec: dict[str, Any]) -> Uploader:
        act, executor, futures = prepare(spec), ThreadPoolExecutor(1), []

        def end() -> None:
            futures[0].result()
            executor.shutdown()

        return lambda: futures.append(executor.submit(act)), lambda: futures[0].done(), end

    return make


STEPS = {"python": python_step, "numpy": numpy_step, "torch": torch_step}
UPLOADERS: dict[str, Callable[[dict[str, Any]], Uploader]] = {
    "none": nobody,
    "ckpt-async": ours,
    "metaflow-checkpoint in a thread": pool(client.peer_upload),
    "boto3 in a thread": pool(client.boto3_upload),
}


def run_steps(step: Step, over: Callable[[], bool]) -> array[float]:
    """Step until it is over; returns what each step took, in seconds."""
    took_s = array("d")
    now_s = time.perf_counter()
    while not over():
        step()
        before_s, now_s = now_s, time.perf_counter()
        took_s.append(now_s - before_s)
    return took_s


def for_seconds(seconds: float) -> Callable[[], bool]:
    ends_s = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= ends_s


def percentile(values: array[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    spec = json.loads(sys.argv[1])
    step = STEPS[spec["loop"]]()
    start, stored, end = UPLOADERS[spec["variant"]](spec)
    run_steps(step, for_seconds(WARM_UP_S))
    before = run_steps(step, for_seconds(spec["window_s"]))
    begun_s = time.perf_counter()
    start()
    blocked_s = time.perf_counter() - begun_s
    during = run_steps(step, stored)
    stored_s = time.perf_counter() - begun_s
    after = run_steps(step, for_seconds(spec["window_s"]))
    end()
    idle = before + after
    steps_per_s = len(idle) / sum(idle)
    measured = {
        "idle_steps_per_s": steps_per_s,
        "speed": len(during) / sum(during) / steps_per_s,
        "p99": percentile(during, 0.99) / percentile(idle, 0.99),
        "idle_p99_ms": percentile(idle, 0.99) * 1000,
        "longest_ms": max(during) * 1000,
        "blocked_s": blocked_s,
        "stored_s": stored_s,
        "steps": len(during),
    }
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
