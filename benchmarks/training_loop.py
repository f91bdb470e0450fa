"""A training loop beside which checkpoints are uploaded; for ``training.py``, which starts it with one JSON object.

Steps go on all the time. First one save between two idle windows; then pairs of short windows, one with the upload going on and
one with uploader and sink stopped, save after save. Prints the times of all steps as JSON. Runs with any Python that has the
loop's library and the uploader's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import client

WARM_UP_S = 0.5
OPEN_TIMEOUT_S = 30.0
#: After a whole save has been stored: what is put away then is no part of the idle window.
REST_S = 0.1
#: In all; the driver's deadline comes later, so that nothing stays stopped.
TIMEOUT_S = 540
MIB = 1024 * 1024

Step = Callable[[], object]


@dataclass(frozen=True)
class Uploader:
    """Who uploads.

    Attributes
    ----------
    save : callable
        Saves the folder; returns as soon as training may go on.
    stored : callable
        Whether the last save is.
    end : callable
        Ends what carries uploads.
    pids : callable
        The processes that upload, which can be stopped meanwhile; None: it is a thread of this one.
    """

    save: Callable[[], object]
    stored: Callable[[], bool]
    end: Callable[[], object]
    pids: Callable[[], list[int]] | None


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
    # Hardly learns: what has been learnt would have smaller and smaller gradients, which take another time to multiply.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7)
    samples = torch.randn(64, 256)

    def step() -> object:
        loss = model(samples).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    return step


def nobody(spec: dict[str, Any]) -> Uploader:
    """What would be an upload is one more idle window."""
    ends_s = [0.0]

    def save() -> None:
        ends_s[0] = time.perf_counter() + spec["around_s"]

    return Uploader(save, lambda: time.perf_counter() >= ends_s[0], lambda: None, list)


def ours(spec: dict[str, Any]) -> Uploader:
    import threading

    from ckpt_async import EntryCommitted, Settings, open_checkpointer
    from ckpt_async.words.events import EntryFailed, WorkerReady

    ready, stored = threading.Event(), threading.Event()
    pids: list[int] = []

    def hear(event: object) -> None:
        if isinstance(event, WorkerReady):
            pids[:] = [event.pid]
            ready.set()
        elif isinstance(event, (EntryCommitted, EntryFailed)):
            stored.set()

    settings = Settings(async_upload=True, worker=spec["worker"])
    opened = open_checkpointer(
        client._identity(spec), client._address(), settings, scratch_root=spec["scratch"], say=lambda line: None
    )
    opened.add_listener(hear)
    # As in a training, whose first save comes long after its start.
    if not ready.wait(OPEN_TIMEOUT_S):
        raise RuntimeError("the worker does not start")

    def save() -> None:
        stored.clear()
        opened.save(spec["folder"])

    # Closing raises what failed.
    end = functools.partial(opened.close, timeout_s=60.0)
    return Uploader(save, stored.is_set, end, (lambda: pids) if spec["worker"] == "process" else None)


def curl(spec: dict[str, Any]) -> Uploader:
    """The least that any upload costs: one file over one connection, in a process of its own."""
    running: list[subprocess.Popen[bytes]] = []
    command = [shutil.which("curl") or "curl", "--silent", "--show-error", "--fail"]
    for path, name in client.files_of(spec["folder"]):
        command += ["--upload-file", path, f"{client.ENDPOINT}/{client.BUCKET}/{spec['prefix']}/{name}"]

    def save() -> None:
        running.append(subprocess.Popen(command))
        pin(spec["others"], running[-1].pid)

    def stored() -> bool:
        if running[-1].poll():
            raise RuntimeError("curl failed")
        return running[-1].returncode == 0

    return Uploader(save, stored, lambda: running[-1].wait(), lambda: [running[-1].pid])


def pool(prepare: Callable[[dict[str, Any]], Callable[[], Any]]) -> Callable[[dict[str, Any]], Uploader]:
    """`ThreadPoolExecutor(1).submit(save)`: what people write by hand."""

    def make(spec: dict[str, Any]) -> Uploader:
        act = prepare(spec)
        # A thread inherits the core of the one that starts it, which will be the loop's.
        executor = ThreadPoolExecutor(1, initializer=pin, initargs=(spec["others"],))
        futures: list[Future[Any]] = []

        def stored() -> bool:
            if futures[-1].done():
                futures[-1].result()  # raises what went wrong
            return futures[-1].done()

        return Uploader(lambda: futures.append(executor.submit(act)), stored, executor.shutdown, None)

    return make


STEPS = {"python": python_step, "numpy": numpy_step, "torch": torch_step}
UPLOADERS: dict[str, Callable[[dict[str, Any]], Uploader]] = {
    "none": nobody,
    "ckpt-async": ours,
    "curl -T": curl,
    "metaflow-checkpoint in a thread": pool(client.peer_upload),
    "boto3 in a thread": pool(client.boto3_upload),
}


def pin(cores: list[int], pid: int = 0) -> None:
    """Keep a process, or this thread and what it will start, to some cores; an empty list changes nothing."""
    if cores:
        os.sched_setaffinity(pid, cores)


def change(folder: str) -> None:
    """Write a few bytes into each MiB of each file: what has not changed would not be sent again."""
    for path, _ in client.files_of(folder):
        with Path(path).open("r+b") as file:
            for offset in range(0, os.path.getsize(path), MIB):
                os.pwrite(file.fileno(), os.urandom(8), offset)


def stolen_s(core: list[int]) -> float:
    """For how long the host has run something else on this core so far; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    if not core or not stat.exists():
        return 0.0
    [line] = [line for line in stat.read_text().splitlines() if line.startswith(f"cpu{core[0]} ")]
    return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")


def open_waits() -> Callable[[], float]:
    """For how long this thread could have run so far and something else had its core; 0 where the system does not tell. Read within
    microseconds: what falls between this and a look at the clock is counted in one of them alone.
    """
    try:
        descriptor = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except FileNotFoundError:
        return lambda: 0.0
    return lambda: int(os.pread(descriptor, 64, 0).split()[1]) / 1e9


def run_steps(step: Step, over: Callable[[], bool], core: list[int]) -> dict[str, Any]:
    """Step until it is over; returns the fields of a `paired.Window`."""
    took_s, used_s = array("d"), array("d")
    stolen_before_s = stolen_s(core)
    begun_s, waited_before_s = time.perf_counter(), waited_s()
    now_s, cpu_now_s = time.perf_counter(), time.thread_time()
    while not took_s or not over():
        step()
        before_s, now_s = now_s, time.perf_counter()
        cpu_before_s, cpu_now_s = cpu_now_s, time.thread_time()
        took_s.append(now_s - before_s)
        used_s.append(cpu_now_s - cpu_before_s)
    waited, wall_s = waited_s() - waited_before_s, time.perf_counter() - begun_s
    return {
        "steps_s": took_s.tolist(), "cpu_steps_s": used_s.tolist(), "wall_s": wall_s, "waited_s": waited,
        "stolen_s": stolen_s(core) - stolen_before_s,
    }  # fmt: skip


waited_s = open_waits()


def for_seconds(seconds: float) -> Callable[[], bool]:
    ends_s = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= ends_s


def together(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Two windows as one."""
    return {name: before[name] + after[name] for name in before}


def run_whole(step: Step, uploader: Uploader, around_s: float, core: list[int]) -> dict[str, Any]:
    """Half of the idle time, a save and its whole upload, the other half."""
    before = run_steps(step, for_seconds(around_s / 2), core)
    begun_s = time.perf_counter()
    uploader.save()
    blocked_s = time.perf_counter() - begun_s
    busy = run_steps(step, uploader.stored, core)
    stored_s = time.perf_counter() - begun_s
    run_steps(step, for_seconds(REST_S), core)
    after = run_steps(step, for_seconds(around_s / 2), core)
    return {"idle": together(before, after), "busy": busy, "blocked_s": blocked_s, "stored_s": stored_s}


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Other processes do nothing meanwhile."""
    try:
        switch(pids, signal.SIGSTOP)
        yield
    finally:
        switch(pids, signal.SIGCONT)


def switch(pids: list[int], way: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, way)


def run_in_turns(step: Step, uploader: Uploader, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs of windows, an idle one and one while the upload goes on; a new save whenever one is stored."""
    core, window_s, pairs = spec["core"], spec["window_s"], []
    assert uploader.pids is not None
    over = for_seconds(spec["seconds"])
    uploader.save()
    # Which of the two comes first is left to chance: nothing but the upload is then different between them.
    draw = random.Random(spec["run"])
    while not over():
        pids, pair = [*uploader.pids(), spec["sink_pid"]], {}
        for name in draw.sample(["idle", "busy"], 2):
            with stopped(pids if name == "idle" else []):
                # After each switch one step does not count: it has the caches as the other state left them.
                step()
                pair[name] = run_steps(step, for_seconds(window_s), core)
        pairs.append(pair)
        if uploader.stored():
            # What is the same as before would not be sent.
            change(spec["folder"])
            uploader.save()
    run_steps(step, uploader.stored, core)
    return pairs


def give_up(number: int, frame: object) -> None:
    """End in order, so that nothing stays stopped."""
    raise TimeoutError(f"not done in {TIMEOUT_S} s, or told to end")


def main() -> None:
    spec = json.loads(sys.argv[1])
    signal.signal(signal.SIGALRM, give_up)
    signal.signal(signal.SIGTERM, give_up)
    signal.alarm(TIMEOUT_S)
    step, core = STEPS[spec["loop"]](), spec["core"]
    uploader = UPLOADERS[spec["variant"]](spec)
    # From here on; what has been started before keeps to the others.
    pin(core)
    run_steps(step, for_seconds(WARM_UP_S), core)
    wholes = []
    for _ in range(spec["wholes"]):
        wholes.append(run_whole(step, uploader, spec["around_s"], core))
        change(spec["folder"])
    pairs = run_in_turns(step, uploader, spec) if uploader.pids else wholes
    uploader.end()
    print(json.dumps({"first": wholes[0], "pairs": pairs}), flush=True)


if __name__ == "__main__":
    main()
